// Package crash makes every legal power-cut image of a disk from one recording
// of what was written to it, and lets a model judge each of them.
//
// # The recording
//
// QEMU's block driver blklogwrites writes the format of Linux's dm-log-writes
// (Documentation/admin-guide/device-mapper/log-writes.rst): a write stands in
// the log once it completed, with its data; a flush once it completed.
//
// # The legal set
//
// The disk has a volatile write cache. The log is cut into epochs; a completed
// flush ends one. If power goes in epoch k after c of its requests completed:
//
//   - everything of the epochs before k is there, in the order of the log;
//   - a sector written in epoch k holds its content from before the epoch, or
//     what any one of the c completed requests, or the one that would have
//     completed next, wrote to it. Sectors choose independently: so any subset
//     of the writes may have arrived in any order, and each may be torn into
//     any subset of its sectors. Two completed writes of one sector never trade
//     places (a cache holds one version of a sector);
//   - a write with FUA that is among the c is there, or something later is; the
//     one in flight may be torn like any other. A request with FLUSH and data
//     ends an epoch and is the first of the next;
//   - a sector is never half written. Its size is Log.Atomic: what the disk
//     states as its logical block, 512 or 4096;
//   - a discard is a hint even after a flush: what it named holds zeros, or
//     what was there before, or rubbish; one of the three for a whole image.
//     QEMU logs a write of zeros as data: that is a promise and stays one.
//
// What is sampled is in Kind; every Point can be written down in one word and
// made again from the log alone.
//
// # Where this is kinder than a disk
//
// A write that completed while a flush was under way stands before that flush
// in QEMU's log and counts as flushed, though the disk owes it nothing. QEMU
// 7.2 emulates FUA by a flush of the file below and sets no FUA flag: such a
// write counts as cached here, which is stricter. Bit rot, misdirected writes
// and disks that lie about a flush are not modelled.
//
// The package knows no installer and no disk layout: the judge is the caller's.
package crash

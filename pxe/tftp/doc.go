// Package tftp serves a fixed set of named files over TFTP, read-only: RFC
// 1350 with the option extensions of RFC 2347, 2348 (blksize), 2349 (tsize,
// timeout) and 7440 (windowsize).
//
// The sender is our own because github.com/pin/tftp/v3 (v3.1.0), the library
// this project otherwise uses, waits for an acknowledgement of every block.
// OVMF and iPXE offer windowsize 4 and more; without it a first loader moves
// one block per round trip, about 4 MB/s at 0.3 ms. pin/tftp remains the
// client of the tests and the peer of BenchmarkWindow.
//
// A server lives on untrusted wires, so one request earns one datagram until
// its sender has proven with an ACK that it receives at that address, every
// transfer has its own UDP port and its own end, and names are looked up, never
// joined to a path.
//
// The package does not write files, does not translate netascii, does not know
// multicast (RFC 2090), does not open or close what Files returns, and does not
// decide which machine may boot: that is the business of whoever made Files.
package tftp

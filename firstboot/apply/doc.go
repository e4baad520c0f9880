// Package apply makes a system root what the config says: names, accounts,
// keys, files, certificates and time, once for every instance.
//
// It starts nothing and decides nothing that the config does not say. Disks
// are package storage's.
package apply

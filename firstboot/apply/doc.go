// Package apply makes a system root what the config says: names, accounts,
// keys, files, certificates and time.
//
// It starts nothing and decides nothing that the config does not say.
package apply

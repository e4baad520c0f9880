// Package modules loads kernel modules: by name, by device alias, for all
// devices present (coldplug) and for those that come later (kernel uevents).
//
// It makes no index (images/kmod does, as text) and unloads nothing.
package modules

// Package netconf brings a node's network up: which interface gets what, static
// addresses, DHCPv4 leases and their renewal, routes and resolv.conf.
//
// It resolves no names, filters no packets and knows nothing of pods.
package netconf

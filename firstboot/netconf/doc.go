// Package netconf brings a node's network up: which interface gets what, bonds,
// VLANs and bridges in the order of need, fixed addresses that no other host
// has, DHCPv4 leases over time, routes and resolv.conf.
//
// It resolves no names, filters no packets, speaks no DHCPv6 and knows nothing
// of pods.
package netconf

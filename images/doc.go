// Package images turns locked content into media. Assemble makes a Plan, a
// value that can be printed and compared; Build makes the files of the plan.
//
// It downloads nothing, knows no DHCP, and nothing of what a node does after
// power-on beyond the names in images/layout and images/boot.
package images

// Package kubeadm takes a machine with a running containerd to a Ready control
// plane of a new cluster, or to a Ready worker of one that runs: the documents
// that kubeadm, kubelet and containerd read, the order in which things run, what
// is done already, and what is still missing while it waits.
//
// It does not configure network interfaces or disks, does not keep services
// running (package supervise does), and pulls nothing.
package kubeadm

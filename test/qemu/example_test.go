package qemu_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

// Boot an ISO on an isolated segment, wait until the node is Ready, and log
// in. In a test, qemutest.LAN, Gateway, Port and Start do the same in one line
// each and clean up.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var signer ssh.Signer // for a key that user-data authorizes

	segment, err := lan.New(lan.Options{Capture: "lan.pcap"})
	if err != nil {
		log.Fatal(err)
	}
	defer segment.Close()
	gateway, err := segment.Host("gateway", segment.Subnet().Addr().Next())
	if err != nil {
		log.Fatal(err)
	}
	if err := gateway.ServeDHCP(lan.DHCP{}); err != nil {
		log.Fatal(err)
	}
	port, err := segment.Port("cp-1")
	if err != nil {
		log.Fatal(err)
	}

	m, err := qemu.Start(ctx, qemu.Machine{
		Arch: arch.AMD64, Firmware: qemu.UEFI, Memory: 4096,
		Boot:   qemu.CD("slipway-amd64.iso"),
		CIDATA: map[string][]byte{"user-data": []byte("#cloud-config\n")},
		NICs:   []*lan.Port{port},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	if _, err := m.WaitPhase(ctx, "ready", handoff.Done); err != nil {
		log.Fatal(err) // with the last lines of the console
	}
	r, err := m.SSH(ctx, qemu.SSHOptions{Signer: signer})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	nodes, err := r.Must(ctx, "kubectl", "get", "nodes")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(nodes)
	for _, v := range segment.Violations() {
		fmt.Println("left the segment:", v)
	}
}

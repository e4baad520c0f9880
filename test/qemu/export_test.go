package qemu

// What tests of package qemu_test need of the inside.
const (
	ExitDevice = exitDevice
	ProbeExit  = 2*probeValue + 1
)

var (
	BootSector = bootSector
	Probe      = probe
)

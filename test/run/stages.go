package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"slipway.dev/slipway/configs/examples"
	"slipway.dev/slipway/test/qemu"
)

const (
	outDir       = "out"
	testDir      = outDir + "/test" // the example with changes for tests
	scenarioPath = "./test/qemu/scenario"
	auditPath    = "./test/audit"
)

// racy are the packages that start goroutines; their tests run under the race detector.
var racy = []string{"./bundle", "./bundle/store", "./cmd/slipway", "./firstboot/...", "./pxe/...", "./test/qemu", "./test/qemu/lan"}

func lint(ctx context.Context, _ *results) error {
	files, err := output(ctx, "git", "ls-files", "*.go")
	if err != nil {
		return err
	}
	bad, err := output(ctx, "gofmt", append([]string{"-l"}, strings.Fields(files)...)...)
	if err != nil {
		return err
	}
	if bad != "" {
		return fmt.Errorf("not formatted; type: gofmt -w %s", strings.Join(strings.Fields(bad), " "))
	}
	if err := visible(ctx, "go", "vet", "./..."); err != nil {
		return err
	}
	if err := visible(ctx, "go", "tool", "staticcheck", "./..."); err != nil {
		return err
	}
	return laptops(ctx)
}

// laptops compiles the operator's tool for the systems that a seed may have.
func laptops(ctx context.Context) error {
	for _, system := range []string{"darwin", "windows"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", os.DevNull, "./cmd/slipway")
		cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("compiling slipway for %s: %w", system, err)
		}
	}
	return nil
}

func unit(ctx context.Context, r *results) error {
	all, err := output(ctx, "go", "list", "./...")
	if err != nil {
		return err
	}
	race, err := output(ctx, "go", append([]string{"list"}, racy...)...)
	if err != nil {
		return err
	}
	with := strings.Fields(race)
	skip := map[string]bool{}
	for _, p := range with {
		skip[p] = true
	}
	var without []string
	for _, p := range strings.Fields(all) {
		if !skip[p] && !strings.HasSuffix(p, scenarioPath[1:]) && !strings.HasSuffix(p, auditPath[1:]) { // these want what the builder makes
			without = append(without, p)
		}
	}
	if err := goTest(ctx, r, false, without...); err != nil {
		return err
	}
	return goTest(ctx, r, false, append([]string{"-race"}, with...)...)
}

// variants are the example with lines changed: both for the emulator (see
// scenario's start), one with the other compression.
var variants = []struct {
	name, lock string
	anew       bool
	oldnew     []string
}{
	{"plain", "slipway.lock", true, nil},
	{"packed", "slipway.lock", false, []string{"compression: none", "compression: zstd"}},
	{"next", "next.lock", true, []string{"serial: 1", "serial: 2", "htop, ", ""}}, // what nodes are upgraded to: one package less
}

// buildISO builds what the scenarios boot; with all, also the bundle of the
// Kubernetes before, which has to be compiled.
func buildISO(all bool) func(context.Context, *results) error {
	return func(ctx context.Context, _ *results) error {
		for _, v := range variants {
			if err := buildVariant(ctx, v.name, v.lock, v.anew, nil, v.oldnew...); err != nil {
				return err
			}
		}
		if !all {
			return nil
		}
		return buildVariant(ctx, "previous", "previous.lock", true, nil, "version: v1.37.1", "version: v1.36.3")
	}
}

// buildARM builds the bundle for both architectures, or the arm64 half alone. It
// comes after the machines of amd64: what is wrong with both shows there.
func buildARM(flags ...string) func(context.Context, *results) error {
	return func(ctx context.Context, _ *results) error {
		return buildVariant(ctx, "both", "both.lock", true, flags, "architectures: [amd64]", "architectures: [amd64, arm64]")
	}
}

// emulated are the kernel arguments of the ISOs that tests boot. For the first two
// see scenario's steady. kpti=off: with KASLR arm64's kernel has page tables of its
// own, and QEMU's TCG forgets all translations of addresses at every change of
// the address space's number, twice per system call. Each is nothing to the
// other architecture, so that all variants are one bundle.
const emulated = "tsc=reliable, no_timer_check, kpti=off"

// buildVariant builds the example with lines changed, after locking it: whatever
// an earlier run locked may be another bundle.
func buildVariant(ctx context.Context, name, lock string, anew bool, flags []string, oldnew ...string) error {
	dir := filepath.Join(testDir, name)
	file, err := variant(filepath.Join(dir, "config"), append([]string{"arguments: []", "arguments: [" + emulated + "]"}, oldnew...)...)
	if err != nil {
		return err
	}
	lock = testDir + "/" + lock
	if anew {
		if err := visible(ctx, "go", "run", "./cmd/slipway", "lock", "-f", file, "--lock", lock); err != nil {
			return err
		}
	}
	argv := append([]string{"go", "run", "./cmd/slipway", "build", "--offline", "-f", file, "--lock", lock, "--out", dir}, flags...)
	if os.Geteuid() == 0 { // what --offline promises, held by the kernel: a namespace without any route
		argv = append([]string{"unshare", "--net"}, argv...)
	}
	return visible(ctx, argv[0], argv[1:]...)
}

// variant writes the example with some lines changed and returns its name.
func variant(dir string, oldnew ...string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"bundle.yaml", "user-data", "meta-data"} {
		raw, err := examples.Files.ReadFile(name)
		if err != nil {
			return "", err
		}
		text := string(raw)
		for i := 0; name == "bundle.yaml" && i < len(oldnew); i += 2 {
			if !strings.Contains(text, oldnew[i]) {
				return "", fmt.Errorf("the example has no %q", oldnew[i])
			}
			text = strings.Replace(text, oldnew[i], oldnew[i+1], 1)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "bundle.yaml"), nil
}

// root holds the example's root against the audit and starts its programs.
func root(ctx context.Context, r *results) error {
	return goTest(ctx, r, true, "-count=1", "-skip", armRoot, auditPath) // its inputs are not only Go files
}

const armRoot = "^TestARM64Root$"

func armAudit(ctx context.Context, r *results) error {
	return goTest(ctx, r, true, "-count=1", "-timeout", "30m", "-run", armRoot, auditPath)
}

// armTests are the scenarios that need what buildARM builds. Of all, those of
// quickTests have machines of one processor that do not go as far as a cluster.
const (
	armTests   = "^Test(ReproducibleBoth|AddingARM64|ReadyARM|MixedCluster|Combined)"
	quickTests = "^Test(EveryFirmwareReachesItsConfig|PackedISO|ConfigInsideTheISO|DamagedBlobIsRefusedByName|DiskLoaders|InstallFaults|" +
		"NetbootFromAnyServer|NetworkBoot|SeedBesideDHCP|UndoWipe|FailureScreens|Clocks|DeadCard|Bond)$"
)

// scenarios runs machines: those whose names run matches, "" for all, but not
// those of skip. With all, also what takes many minutes, and as many power cuts
// and crash points as a release wants. Two machines run side by side where their
// tests say that they may: they have one processor each.
func scenarios(run, skip string, all bool) func(context.Context, *results) error {
	args := []string{"-timeout", "80m", "-parallel", "2", "-run", run, "-skip", skip, scenarioPath, "-args", "-out", "../../../" + testDir}
	if all {
		args[1] = "12h"
		args = append(args, "-all", "-cuts", "20", "-points", "3000", "-boots", "30")
	}
	return func(ctx context.Context, r *results) error {
		failed, fails := r.failed, len(r.fails)
		err := goTest(ctx, r, true, args...)
		again := r.forgive(failed, fails)
		if err != nil || len(again) == 0 {
			return err
		}
		fmt.Printf("once more, %s: %s\n", qemu.StaleTranslation, strings.Join(again, ", "))
		args[slices.Index(args, "-run")+1] = "^(" + strings.Join(again, "|") + ")$"
		return goTest(ctx, r, true, args...)
	}
}

func benchmarks(ctx context.Context, r *results) error {
	if err := visible(ctx, "go", "run", "./test/bench", "-lock", testDir+"/slipway.lock", "-json", outDir+"/bench.json"); err != nil {
		return err
	}
	return goTest(ctx, r, true, "-timeout", "80m", "-run", "^$", "-bench", ".", "-benchtime", "1x", scenarioPath, "-args", "-out", "../../../"+testDir)
}

// goTest runs `go test -json` and adds to the results; a failed test is
// counted there and is no error here.
func goTest(ctx context.Context, r *results, live bool, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	before := r.failed
	if err := r.read(pipe, os.Stdout, live); err != nil {
		return err
	}
	err = cmd.Wait()
	if err != nil && r.failed == before {
		return fmt.Errorf("go test: %w", err)
	}
	return ctx.Err()
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args[:min(2, len(args))], " "), err, stderr.String())
	}
	return string(out), nil
}

func visible(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args[:min(2, len(args))], " "), err)
	}
	return nil
}

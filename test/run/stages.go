package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

const (
	bundle       = "configs/examples/bundle.yaml"
	outDir       = "out"
	scenarioPath = "./test/qemu/scenario"
	auditPath    = "./test/audit"
)

// racy are the packages that start goroutines; their tests run under the race detector.
var racy = []string{"./bundle", "./bundle/store", "./firstboot/...", "./test/qemu", "./test/qemu/lan"}

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
	return visible(ctx, "go", "tool", "staticcheck", "./...")
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
		if !skip[p] && !strings.HasSuffix(p, scenarioPath[1:]) && !strings.HasSuffix(p, auditPath[1:]) {
			without = append(without, p)
		}
	}
	if err := goTest(ctx, r, false, without...); err != nil {
		return err
	}
	return goTest(ctx, r, false, append([]string{"-race"}, with...)...)
}

func buildISO(ctx context.Context, _ *results) error {
	return visible(ctx, "go", "run", "./cmd/slipway", "build", "-f", bundle, "-o", outDir)
}

// roots audits the system root of the bundle and starts every program in it.
func roots(ctx context.Context, r *results) error {
	return goTest(ctx, r, true, auditPath, "-args", "-out", "../../"+outDir)
}

func scenarios(ctx context.Context, r *results) error {
	return goTest(ctx, r, true, "-timeout", "80m", scenarioPath, "-args", "-out", "../../../"+outDir)
}

func benchmarks(ctx context.Context, r *results) error {
	return goTest(ctx, r, true, "-timeout", "80m", "-run", "^$", "-bench", ".", "-benchtime", "1x", scenarioPath, "-args", "-out", "../../../"+outDir)
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

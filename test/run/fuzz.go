package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// target is one fuzz target.
type target struct{ pkg, name string }

// fuzzer returns the stage that runs every fuzz target for d, one after the
// other, and prints how many inputs each had. What it finds stays in the
// package's testdata/fuzz, to be fixed and committed.
func fuzzer(d time.Duration, match string) func(context.Context, *results) error {
	return func(ctx context.Context, r *results) error {
		want, err := regexp.Compile(match)
		if err != nil {
			return err
		}
		all, err := targets(ctx)
		if err != nil {
			return err
		}
		for _, t := range all {
			if !want.MatchString(t.pkg + "." + t.name) {
				continue
			}
			last, text, err := fuzz(ctx, t, d)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				r.failed++
				fmt.Printf("FAIL %s.%s: %v\n%s", t.pkg, t.name, err, text)
				continue
			}
			r.passed++
			fmt.Printf("ok   %s.%s: %s\n", t.pkg, t.name, last)
		}
		return nil
	}
}

// targets are those in committed files.
func targets(ctx context.Context) (out []target, err error) {
	files, err := output(ctx, "git", "ls-files", "*_test.go")
	if err != nil {
		return nil, err
	}
	head := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	for _, f := range strings.Fields(files) {
		raw, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for _, m := range head.FindAllStringSubmatch(string(raw), -1) {
			out = append(out, target{"./" + filepath.Dir(f), m[1]})
		}
	}
	return out, nil
}

// fuzz returns the last count of executions, and everything that was said.
func fuzz(ctx context.Context, t target, d time.Duration) (last, text string, err error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", d.String(), t.pkg)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return "", "", err
	}
	if err := cmd.Start(); err != nil {
		return "", "", err
	}
	count := regexp.MustCompile(`execs: \d+`)
	var b strings.Builder
	for sc := bufio.NewScanner(pipe); sc.Scan(); {
		if m := count.FindString(sc.Text()); m != "" {
			last = m
		}
		b.WriteString(sc.Text() + "\n")
	}
	return last, b.String(), cmd.Wait()
}

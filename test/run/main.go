// Command run executes slipway's tests, cheap ones first, and prints how many
// passed, failed and were skipped, with the reason of every skip.
//
// It contains no test itself: it calls the linters, `go test` and the builder.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx))
}

// stage is one part of the run; a failed stage ends it when the rest would be
// meaningless or costs minutes.
type stage struct {
	name string
	do   func(context.Context, *results) error
}

func run(ctx context.Context) int {
	lintOnly := flag.Bool("lint", false, "only the linters")
	all := flag.Bool("all", false, "also the scenarios that take many minutes")
	isosOnly := flag.Bool("isos", false, "only build the ISOs that the machines boot")
	bench := flag.Bool("bench", false, "only the measurements against peers")
	fuzzTime := flag.Duration("fuzz", 0, "only the fuzz targets, each for so long")
	fuzzMatch := flag.String("fuzz-match", "", "only fuzz targets that this regular expression matches, as in ./pxe.FuzzDHCP")
	flag.Parse()
	stages := []stage{
		{"lint", lint},
		{"unit", unit},
		{"iso", buildISO},
		{"root", root},
		{"machines", scenarios("-skip", *all)},
		{"arm64 iso", buildARM},
		{"arm64 root", armAudit},
		{"arm64 machines", scenarios("-run", *all)},
	}
	switch {
	case *lintOnly:
		stages = stages[:1]
	case *isosOnly:
		stages = []stage{{"iso", buildISO}, {"arm64 iso", buildARM}}
	case *bench:
		stages = []stage{{"iso", buildISO}, {"bench", benchmarks}}
	case *fuzzTime > 0:
		stages = []stage{{"fuzz", fuzzer(*fuzzTime, *fuzzMatch)}}
	}
	begin := time.Now()
	r := &results{}
	code := 0
	for _, s := range stages {
		t := time.Now()
		fmt.Printf("=== %s\n", s.name)
		if err := s.do(ctx, r); err != nil {
			fmt.Printf("--- %s: %v\n", s.name, err)
			r.failed++
			code = 1
		}
		fmt.Printf("=== %s: %.0f s\n", s.name, time.Since(t).Seconds())
		if code != 0 || r.failed > 0 {
			code = 1
			break
		}
	}
	r.print(os.Stdout, time.Since(begin))
	return code
}

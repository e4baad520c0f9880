// Command run executes slipway's tests, cheap ones first, and prints how many
// passed, failed and were skipped, with the reason of every skip.
//
// It contains no test itself: it calls the linters, `go test` and the builder.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
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

// enough is how long everything else may have taken before arm64 is left out of
// `make test`: whoever has ninety minutes gets all of amd64, with nothing cached too.
const enough = 50 * time.Minute

func run(ctx context.Context) int {
	lintOnly := flag.Bool("lint", false, "only the linters")
	all := flag.Bool("all", false, "also the scenarios that take many minutes")
	armOnly := flag.Bool("arm64", false, "only build and boot arm64, however long it takes")
	isosOnly := flag.Bool("isos", false, "only build the ISOs that the machines boot")
	bench := flag.Bool("bench", false, "only the measurements against peers")
	fuzzTime := flag.Duration("fuzz", 0, "only the fuzz targets, each for so long")
	fuzzMatch := flag.String("fuzz-match", "", "only fuzz targets that this regular expression matches, as in ./pxe.FuzzDHCP")
	only := flag.String("stage", "", "only the stages whose names this regular expression matches: lint, unit, iso, root, machines, clusters, arm64 iso, arm64 machines")
	flag.Parse()
	stages := []stage{
		{"lint", lint},
		{"unit", unit},
		{"iso", buildISO(*all)},
		{"root", root},
		{"machines", scenarios(quickTests, "^$", *all)},
		{"clusters", scenarios("", quickTests+"|"+armTests, *all)},
	}
	begin := time.Now()
	arm := []stage{{"arm64 iso", buildARM("--combined")}, {"arm64 root", armAudit}, {"arm64 machines", scenarios(armTests, "^$", *all)}}
	late := []stage{{"arm64", func(ctx context.Context, r *results) error {
		r.skips = append(r.skips, "arm64: the programs of its root, the combined ISO, network boot and reproducibility: make test-arm64")
		if gone := time.Since(begin); gone > enough {
			r.skips = append(r.skips, fmt.Sprintf("arm64: a machine: the rest took %.0f minutes, and building it may take fifteen more: make test-arm64", gone.Minutes()))
			return nil
		}
		return inTurn(ctx, r, []stage{{"arm64 iso", buildARM("--arch", "arm64")}, {"arm64 machine", scenarios("^TestReadyARM$", "^$", false)}})
	}}}
	if *all {
		late = arm
	}
	stages = append(stages, late...)
	switch {
	case *armOnly:
		stages = append([]stage{{"iso", buildISO(false)}}, arm...)
	case *lintOnly:
		stages = stages[:1]
	case *isosOnly:
		stages = []stage{{"iso", buildISO(false)}, arm[0]}
	case *bench:
		stages = []stage{{"iso", buildISO(false)}, {"bench", benchmarks}}
	case *fuzzTime > 0:
		stages = []stage{{"fuzz", fuzzer(*fuzzTime, *fuzzMatch)}}
	}
	want, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "-stage:", err)
		return 2
	}
	stages = slices.DeleteFunc(stages, func(s stage) bool { return !want.MatchString(s.name) })
	r := &results{}
	err = inTurn(ctx, r, stages)
	r.print(os.Stdout, time.Since(begin))
	if err != nil || r.failed > 0 {
		return 1
	}
	return 0
}

// inTurn runs stages until one fails.
func inTurn(ctx context.Context, r *results, stages []stage) error {
	for _, s := range stages {
		t := time.Now()
		fmt.Printf("=== %s\n", s.name)
		before := r.failed
		err := s.do(ctx, r)
		if err != nil && r.failed == before { // nobody has said and counted it
			fmt.Printf("--- %s: %v\n", s.name, err)
			r.failed++
		}
		fmt.Printf("=== %s: %.0f s\n", s.name, time.Since(t).Seconds())
		if err != nil || r.failed > 0 {
			return fmt.Errorf("%s: %w", s.name, cmp.Or(err, errFailed))
		}
	}
	return nil
}

var errFailed = errors.New("a test failed")

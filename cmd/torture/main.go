package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// without is the path of a program that is left out.
const without = "-"

// options say what is attacked, how and for how long.
type options struct {
	Bus       string
	Seed      uint64
	Duration  time.Duration
	Checks    int
	Interval  time.Duration // of polls
	TTL       time.Duration // of pushes
	Pace      time.Duration // between faults, on average
	Results   int64         // bytes that RESULTS may hold; 0: as Megaphone makes it
	Megaphone string        // path of the program; empty: build it
	NATS      string        // path of the plain nats tool; empty: build it; without: go without it
	Dir       string        // for data and logs; empty: a temporary one, kept if something was wrong
	Verbose   bool          // of the processes
}

func main() {
	var o options
	flag.StringVar(&o.Bus, "bus", embedded, "embedded, external or cluster")
	flag.Uint64Var(&o.Seed, "seed", 1, "of script and faults")
	flag.DurationVar(&o.Duration, "duration", 10*time.Minute, "of the attack")
	flag.IntVar(&o.Checks, "checks", 1000, "how many")
	flag.DurationVar(&o.Interval, "interval", 4*time.Second, "of polls")
	flag.DurationVar(&o.TTL, "ttl", 20*time.Second, "of pushes")
	flag.DurationVar(&o.Pace, "pace", 4*time.Second, "between two faults on average")
	flag.Int64Var(&o.Results, "results", 0, "bytes that RESULTS may hold, so that it is full (default: as Megaphone makes it)")
	flag.StringVar(&o.Megaphone, "megaphone", "", "program to attack (default: build it)")
	flag.StringVar(&o.NATS, "nats", os.Getenv("NATS_CLI"), "the plain nats tool (default $NATS_CLI, else build it; - to go without)")
	flag.StringVar(&o.Dir, "dir", "", "for data and logs (default a temporary one, kept if something was wrong)")
	flag.BoolVar(&o.Verbose, "verbose", false, "let the processes log more")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := torture(ctx, o, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
	}
	if !ok || err != nil {
		stop()
		os.Exit(1)
	}
}

// torture runs one attack and prints the verdict. It reports whether all
// promises held.
func torture(ctx context.Context, o options, out io.Writer) (ok bool, err error) {
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "torture-"+o.Bus+"-"); err != nil {
			return false, err
		}
		defer func() {
			if ok && err == nil {
				_ = os.RemoveAll(o.Dir) // it is a temporary one
			} else {
				fmt.Fprintln(out, "data and logs are kept in", o.Dir)
			}
		}()
	} else if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return false, err
	}
	log := slog.New(slog.NewTextHandler(out, nil))
	bin, err := build(ctx, o)
	if err != nil {
		return false, err
	}
	f, err := newFleet(o, o.Dir, bin, log)
	if err != nil {
		return false, err
	}
	defer func() { f.Stop(!ok || err != nil) }()
	if err := f.Start(ctx); err != nil {
		return false, fmt.Errorf("start everything: %w", err)
	}
	r := &run{o: o, bin: bin, fleet: f, log: log}
	if err := r.attack(ctx); err != nil {
		r.report(out)
		return false, err
	}
	r.report(out)
	if !r.verdict.ok() {
		return false, errors.New("promises were broken")
	}
	return true, nil
}

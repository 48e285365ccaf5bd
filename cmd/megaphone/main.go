// Command megaphone answers one question, everywhere, the moment the answer
// changes: how is this host?
//
// `megaphone serve` runs everything in one process: the bus, a worker, an
// aggregator and the gateway. `megaphone poller`, `aggregator` and `gateway`
// run one role on a bus elsewhere; the other commands are clients.
//
// This package holds flags, settings, files, wiring and the client commands;
// what Megaphone does is in the packages that it joins.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() { os.Exit(mainExit()) }

func mainExit() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == legacyCheckName {
		args = append([]string{legacyCheckName}, args...)
	}
	return run(ctx, args, os.Stdin, os.Stdout, os.Stderr)
}

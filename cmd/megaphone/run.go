package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes. `megaphone nagios` has its own.
const (
	exitDone    = 0
	exitRefused = 1 // refused or failed
	exitUsage   = 2
)

// exitError is an error with an exit code of its own. Without an error below
// it, nothing is printed: the command has said everything already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// run is the whole program, with the outside world as parameters, and returns
// its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	code := exitRefused
	var e *exitError
	if errors.As(err, &e) {
		code = e.code
	}
	if e == nil || e.err != nil {
		// The only place that prints an error; always one line.
		fmt.Fprintln(stderr, "megaphone:", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "megaphone",
		Short: "How is this host? Answered everywhere, the moment the answer changes",
		Long: "How is this host? Services register a check or push their own status, workers poll the rest,\n" +
			"and the host's status is answered over HTTP and told over NATS the moment it changes.",
		Example: "  megaphone serve\n" +
			"  megaphone register db http://localhost:8080/status\n" +
			"  megaphone push queue Warning 'queue is long' --ttl 60s\n" +
			"  megaphone status\n" +
			"  megaphone watch",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("unknown command %q; `megaphone --help` lists them", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			_ = cmd.Help() // to stderr; nothing to be done about that
			return &exitError{code: exitUsage}
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see `%s --help`", err, cmd.CommandPath())
	})
	root.AddCommand(newServe(), newPoller(), newAggregator(), newGateway(),
		newRegister(), newDeregister(), newPush(), newOverride(), newStatus(), newWatch(),
		newPoll(), newWorkers(), newDiscover(), newNagios(), newLegacyCheck(), newVersion())
	return root
}

// takes checks how many arguments a command got; what names them in the error.
func takes(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usage("%s needs %s; see `%s --help`", cmd.Name(), what, cmd.CommandPath())
		case len(args) > most && most == 0:
			return usage("%s takes no arguments, not %q", cmd.Name(), args[0])
		case len(args) > most:
			return usage("%s takes %s and no more, not %q; quote texts with blanks", cmd.Name(), what, args[most])
		}
		return nil
	}
}

// newLogger logs to stderr, which is where the error of the last line goes too.
func newLogger(w io.Writer, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// watchFlags are the flags of watch.
type watchFlags struct {
	client
	check     string
	hosts     bool
	after     uint64
	fromStart bool
	since     time.Duration
}

func newWatch() *cobra.Command {
	f := &watchFlags{}
	cmd := &cobra.Command{
		Use: "watch", Short: "Print every transition as it happens",
		Long: "Print every transition of all hosts as it happens, until interrupted: its position, its time, whose it\n" +
			"is, its number, and what changed. A lost connection is resumed without missing any.",
		Example: "  megaphone watch --host web01\n  megaphone watch --hosts --since 1h --json",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options(cmd.Context(), time.Now())
			if err != nil {
				return err
			}
			conn, err := f.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			return f.watch(cmd.Context(), conn, o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.host, "host", "", "only this `HOST` and its checks")
	fs.StringVar(&f.check, "check", "", "only the check `ID`, with --host")
	fs.BoolVar(&f.hosts, "hosts", false, "only transitions of hosts")
	fs.Uint64Var(&f.after, "after", 0, "resume after position `N`")
	fs.BoolVar(&f.fromStart, "from-start", false, "begin with the oldest that is kept")
	fs.Var((*durationValue)(&f.since), "since", "begin this long ago")
	hideZero(cmd)
	f.bindJSON(cmd, "print a CloudEvent a line")
	f.bindBus(cmd)
	return cmd
}

func (f *watchFlags) options(_ context.Context, now time.Time) (bus.WatchOptions, error) {
	o := bus.WatchOptions{Host: f.host, Check: f.check, Hosts: f.hosts, After: f.after, FromStart: f.fromStart}
	if f.since > 0 {
		o.Since = now.Add(-f.since)
	}
	begins := 0
	for _, set := range []bool{f.after > 0, f.fromStart, f.since > 0} {
		if set {
			begins++
		}
	}
	switch {
	case begins > 1:
		return o, usage("give one of --after, --from-start and --since")
	case f.check != "" && f.host == "":
		return o, usage("--check needs --host: an ID is unique on its host only")
	case f.check != "" && f.hosts:
		return o, usage("give either --check or --hosts")
	}
	return o, nil
}

// watch prints until ctx ends. What is no longer kept is told on stderr.
func (f *watchFlags) watch(ctx context.Context, conn *bus.Conn, o bus.WatchOptions, out, problems io.Writer) error {
	for ch, err := range conn.Watch(ctx, o) {
		var gap *bus.GapError
		switch {
		case errors.As(err, &gap):
			fmt.Fprintln(problems, "megaphone:", gap)
			continue
		case err != nil:
			return err
		}
		if err := f.printChange(out, ch); err != nil {
			return err
		}
	}
	return nil
}

func (f *watchFlags) printChange(w io.Writer, ch bus.Change) error {
	if f.json {
		line, err := events.Marshal(ch.Event)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s\n", line)
		return err
	}
	t := ch.Transition
	_, err := fmt.Fprintf(w, "%d  %s  %-16s  %-16s  #%-4d  %s -> %s  %s: %s\n", ch.Position, events.At(ch.Event.Time()),
		t.Host, dash(t.Check), t.Number, momentText(t.Previous), momentText(t.Current), t.Cause, strconv.Quote(t.Message))
	return err
}

// momentText is a status, with its phase where that is not simply live.
func momentText(m events.Moment) string {
	switch {
	case m.Status == nil:
		return string(m.Phase)
	case m.Phase == events.Live:
		return m.Status.String()
	}
	return m.Status.String() + "(" + string(m.Phase) + ")"
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// watchFlags are the flags of watch.
type watchFlags struct {
	client
	words     events.FilterWords
	after     uint64
	fromStart bool
	since     string
	state     bool
}

func newWatch() *cobra.Command {
	f := &watchFlags{}
	cmd := &cobra.Command{
		Use: "watch", Short: "Print every transition as it happens",
		Long: "Print every transition of all hosts as it happens, until interrupted: its position, its time, whose it\n" +
			"is, its number, and what changed. A lost connection is resumed without missing any; what is no longer\n" +
			"kept is told on stderr. In patterns \"*\" stands for any characters and \"?\" for one.",
		Example: "  megaphone watch --host 'web*' --status Critical\n  megaphone watch --hosts --since 1h --json\n  megaphone watch --state --label env=prod",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options(time.Now())
			if err != nil {
				return err
			}
			conn, err := f.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			return hint(f.watch(cmd.Context(), conn, o, cmd.OutOrStdout(), cmd.ErrOrStderr()))
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.words.Host, "host", "", "only hosts of this `PATTERN`, and their checks")
	fs.StringVar(&f.words.Check, "check", "", "only checks whose id has this `PATTERN`")
	fs.BoolVar(&f.words.Hosts, "hosts", false, "only transitions of hosts")
	fs.StringVar(&f.words.Status, "status", "", "only from or to a `STATUS` at least as severe as this")
	fs.StringArrayVar(&f.words.Labels, "label", nil, "only with this label: `KEY` or KEY=VALUE; may be repeated")
	fs.BoolVar(&f.state, "state", false, "first how everything is, then what changes")
	fs.Uint64Var(&f.after, "after", 0, "resume after position `N`")
	fs.StringVar(&f.since, "since", "", "begin this long ago, or at this `TIME`")
	fs.BoolVar(&f.fromStart, "from-start", false, "begin with the oldest that is kept")
	hideZero(cmd)
	f.bindJSON(cmd, "print a CloudEvent a line; its extension position is what --after takes")
	f.bindBus(cmd)
	return cmd
}

func (f *watchFlags) options(now time.Time) (o bus.WatchOptions, err error) {
	begins := 0
	for _, set := range []bool{f.after > 0, f.fromStart, f.since != "", f.state && f.after == 0} {
		if set {
			begins++
		}
	}
	o = bus.WatchOptions{After: f.after, FromStart: f.fromStart, State: f.state}
	if f.since != "" {
		if o.Since, err = events.ParseSince(f.since, now); err != nil {
			return o, usage("--since: %w", err)
		}
	}
	if o.Filter, err = events.ParseFilter(f.words); err != nil {
		return o, usage("%w", err)
	}
	if begins > 1 {
		return o, usage("give one of --after, --from-start, --since and --state; --after may have --state beside it, for a position that is no longer kept")
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
		if ch.Complete {
			return nil
		}
		if ch.Position > 0 {
			ch.Event.SetExtension("position", strconv.FormatUint(ch.Position, 10))
		}
		line, err := events.Marshal(ch.Event)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s\n", line)
		return err
	}
	if ch.Complete {
		_, err := fmt.Fprintf(w, "%d  this is how it is; what changes follows\n", ch.Position)
		return err
	}
	t, what := ch.Transition, momentText(ch.Transition.Current)
	position := strconv.FormatUint(ch.Position, 10)
	if ch.Present {
		position = strings.Repeat(" ", len("1764000000000000")) // of the same width; it has none
	} else {
		what = momentText(t.Previous) + " -> " + what
	}
	_, err := fmt.Fprintf(w, "%s  %s  %-16s  %-16s  #%-4d  %s  %s: %s\n", position, watchTime(ch.Event.Time()),
		t.Host, dash(t.Check), t.Number, what, t.Cause, strconv.Quote(t.Message))
	return err
}

// watchTime is a time of an event; what is pending has none.
func watchTime(t time.Time) string {
	if t.IsZero() {
		return strings.Repeat(" ", len("2026-11-22T10:00:00.000Z"))
	}
	return events.At(t).String()
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

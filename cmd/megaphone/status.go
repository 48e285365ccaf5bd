package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// statusFlags are the flags of the commands that read the present state.
type statusFlags struct {
	client
	all bool
}

func (f *statusFlags) bindAll(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.all, "all", false, "all hosts")
}

func newStatus() *cobra.Command {
	f := &statusFlags{}
	cmd := &cobra.Command{
		Use: "status [ID]", Short: "Show how a host or a check is, now",
		Example: "  megaphone status\n  megaphone status db --json\n  megaphone status --all",
		Args:    takes(0, 1, "at most an ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := optional(args)
			if f.all && id != "" {
				return usage("give either an ID or --all")
			}
			return f.with(cmd, func(ctx context.Context, conn *bus.Conn) error {
				a, err := f.ask(ctx, conn, id, false)
				if err != nil {
					return err
				}
				return f.print(cmd.OutOrStdout(), id, a)
			})
		},
	}
	f.bindHost(cmd)
	f.bindAll(cmd)
	f.bindJSON(cmd, "print one JSON value")
	f.bindBus(cmd)
	return cmd
}

// ask gets the views of a host and its checks, of one check, or of all hosts;
// with checks, those of all hosts too.
func (f *statusFlags) ask(ctx context.Context, conn *bus.Conn, id string, checks bool) (events.StatusAnswer, error) {
	if !f.all {
		host, err := f.on(ctx, conn)
		if err != nil {
			return events.StatusAnswer{}, err
		}
		return conn.Status(ctx, events.StatusQuery{Host: host, Check: id})
	}
	all, err := conn.Status(ctx, events.StatusQuery{All: true})
	if err != nil || !checks {
		return all, err
	}
	all.Checks = nil
	for _, h := range all.Hosts {
		a, err := conn.Status(ctx, events.StatusQuery{Host: h.Host})
		if err != nil {
			return all, err
		}
		all.Checks = append(all.Checks, a.Checks...)
	}
	return all, nil
}

// print shows one JSON value: a check's view, else hosts and checks.
func (f *statusFlags) print(w io.Writer, id string, a events.StatusAnswer) error {
	switch {
	case id != "" && len(a.Checks) == 0:
		return fmt.Errorf("no check %q is registered there; `megaphone status` lists those that are", id)
	case f.json && id != "":
		return printJSON(w, a.Checks[0])
	case f.json:
		return printJSON(w, a)
	case id != "":
		return printCheck(w, a.Checks[0])
	}
	if len(a.Hosts) == 0 {
		_, err := fmt.Fprintln(w, events.TextNoChecks)
		return err
	}
	rows := [][]string{{"HOST", "STATUS", "PHASE", "SINCE", "CHECKS", "MESSAGE"}}
	for _, h := range a.Hosts {
		rows = append(rows, []string{h.Host, h.Status.String(), string(h.Phase), since(h.Since), counts(h.Checks), h.Message})
	}
	if err := table(w, rows...); err != nil || f.all || len(a.Checks) == 0 {
		return err
	}
	rows = [][]string{{"CHECK", "STATUS", "PHASE", "SINCE", "AGE", "MESSAGE"}}
	for _, c := range a.Checks {
		rows = append(rows, []string{c.Check, c.Status.String(), string(c.Phase), since(c.Since), age(c.AgeSeconds), c.Message})
	}
	fmt.Fprintln(w)
	return table(w, rows...)
}

// printCheck shows everything about one check, a fact a line.
func printCheck(w io.Writer, c events.CheckView) error {
	rows := [][]string{
		{"host", c.Host},
		{"check", c.Check},
		{"status", c.Status.String()},
		{"phase", string(c.Phase)},
	}
	if c.Reported != nil {
		rows = append(rows, []string{"reported", c.Reported.String()})
	}
	rows = append(rows, [][]string{
		{"message", c.Message},
		{"number", fmt.Sprint(c.Number)},
		{"since", since(c.Since)},
		{"age", age(c.AgeSeconds)},
		{"next in", age(c.NextSeconds)},
		{"latency", fmt.Sprintf("%.4fs", c.LatencySeconds)},
		{"origin", dash(c.Origin)},
	}...)
	if c.Override != nil {
		rows = append(rows, []string{"override", c.Override.Text() + ", " + ends(*c.Override)})
	}
	if c.Registration != nil && !c.Registration.Push() {
		rows = append(rows, []string{"url", string(c.Registration.URL)})
	}
	if len(c.Document) > 0 {
		rows = append(rows, []string{"document", string(c.Document)})
	}
	return table(w, rows...)
}

// counts says how many checks a host has and which are not well.
func counts(c events.Counts) string {
	text := fmt.Sprint(c.OK + c.Unknown + c.Warning + c.Critical + c.Pending)
	for _, n := range []struct {
		count int
		word  string
	}{{c.Critical, "critical"}, {c.Warning, "warning"}, {c.Unknown, "unknown"}, {c.Pending, "pending"}} {
		if n.count > 0 {
			text += fmt.Sprintf(", %d %s", n.count, n.word)
		}
	}
	return text
}

func since(t events.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func age(seconds *float64) string {
	if seconds == nil {
		return "-"
	}
	return time.Duration(*seconds * float64(time.Second)).Round(100 * time.Millisecond).String()
}

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

func newOverride() *cobra.Command {
	cmd := &cobra.Command{
		Use: "override", Short: "Set a status by hand, for a time",
		Args: takes(1, 1, "set, clear or list"),
		RunE: func(_ *cobra.Command, args []string) error {
			return usage("override takes set, clear or list, not %q", args[0])
		},
	}
	cmd.AddCommand(newOverrideSet(), newOverrideClear(), newOverrideList())
	return cmd
}

// overrideFlags are the flags of override set.
type overrideFlags struct {
	client
	status, reason, by              string
	maintenance, forever, untilPush bool
	lasts                           time.Duration
}

func newOverrideSet() *cobra.Command {
	f := &overrideFlags{}
	cmd := &cobra.Command{
		Use: "set [ID]", Short: "Override a check, or without an ID its host",
		Example: "  megaphone override set --maintenance --for 2h --reason 'disk swap'\n" +
			"  megaphone override set db --status OK --until-push",
		Args: takes(0, 1, "at most an ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.override(args, time.Now())
			if err != nil {
				return err
			}
			return f.with(cmd, func(ctx context.Context, conn *bus.Conn) error {
				if o.Host, err = f.on(ctx, conn); err != nil {
					return err
				}
				if err := conn.SetOverride(ctx, o); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is overridden %s\n", named(o.Host, o.Check), ends(o))
				return err
			})
		},
	}
	fs := cmd.Flags()
	f.bindHost(cmd)
	fs.StringVar(&f.status, "status", "", "`STATUS` to show instead")
	fs.BoolVar(&f.maintenance, "maintenance", false, "keep the status, but do not count it")
	fs.StringVar(&f.reason, "reason", "", "`TEXT` that is shown with it")
	fs.StringVar(&f.by, "by", os.Getenv("USER"), "`NAME` of who does it")
	fs.Var((*durationValue)(&f.lasts), "for", "how long it holds")
	fs.BoolVar(&f.forever, "forever", false, "it holds until it is cleared")
	fs.BoolVar(&f.untilPush, "until-push", false, "it holds until the next push of the check")
	hideZero(cmd)
	f.bindBus(cmd)
	return cmd
}

// override builds and checks what the flags say; the host comes later.
func (f *overrideFlags) override(args []string, now time.Time) (events.Override, error) {
	o := events.Override{
		Maintenance: f.maintenance, Reason: f.reason, By: f.by,
		Forever: f.forever, UntilPush: f.untilPush,
	}
	if len(args) == 1 {
		id, err := events.ParseCheck(args[0])
		if err != nil {
			return o, err
		}
		o.Check = id
	}
	if f.status != "" {
		s, err := events.ParseStatus(f.status)
		if err != nil {
			return o, usage("--status: %w", err)
		}
		o.Status = &s
	}
	if f.lasts > 0 {
		o.Until = events.At(now.Add(f.lasts))
	}
	switch {
	case o.Maintenance == (o.Status != nil):
		return o, usage("give either --status STATUS or --maintenance")
	case f.lasts > 0 && f.forever:
		return o, usage("give either --for or --forever")
	case f.lasts == 0 && !f.forever && !f.untilPush:
		return o, usage("say when it ends: --for D, --until-push or --forever")
	case f.untilPush && o.Check == "":
		return o, usage("--until-push needs the ID of a check")
	}
	return o, o.Validate()
}

func newOverrideClear() *cobra.Command {
	f := &client{}
	cmd := &cobra.Command{
		Use: "clear [ID]", Short: "End the override of a check, or without an ID of its host",
		Args: takes(0, 1, "at most an ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd, func(ctx context.Context, conn *bus.Conn) error {
				host, err := f.on(ctx, conn)
				if err != nil {
					return err
				}
				check := optional(args)
				if err := conn.ClearOverride(ctx, host, check); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is not overridden any more\n", named(host, check))
				return err
			})
		},
	}
	f.bindHost(cmd)
	f.bindBus(cmd)
	return cmd
}

func newOverrideList() *cobra.Command {
	f := &statusFlags{}
	cmd := &cobra.Command{
		Use: "list [ID]", Short: "List what is overridden on a host",
		Args: takes(0, 1, "at most an ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd, func(ctx context.Context, conn *bus.Conn) error {
				views, err := f.ask(ctx, conn, optional(args), true)
				if err != nil {
					return err
				}
				return f.printOverrides(cmd, overrides(views))
			})
		},
	}
	f.bindHost(cmd)
	f.bindAll(cmd)
	f.bindJSON(cmd, "print one JSON value")
	f.bindBus(cmd)
	return cmd
}

// overrides picks what is overridden. An override that selects by label shows
// with each check that it holds for.
func overrides(a events.StatusAnswer) []events.Override {
	found := []events.Override{}
	for _, h := range a.Hosts {
		if h.Override != nil {
			o := *h.Override
			o.Host = h.Host
			found = append(found, o)
		}
	}
	for _, c := range a.Checks {
		if c.Override != nil {
			o := *c.Override
			o.Host, o.Check = c.Host, c.Check
			found = append(found, o)
		}
	}
	return found
}

func (f *statusFlags) printOverrides(cmd *cobra.Command, list []events.Override) error {
	if f.json {
		return printJSON(cmd.OutOrStdout(), list)
	}
	rows := [][]string{{"HOST", "CHECK", "STATUS", "ENDS", "BY", "REASON"}}
	for _, o := range list {
		what := "maintenance"
		if o.Status != nil {
			what = o.Status.String()
		}
		rows = append(rows, []string{o.Host, dash(o.Check), what, ends(o), dash(o.By), o.Reason})
	}
	return table(cmd.OutOrStdout(), rows...)
}

// ends says when an override ends.
func ends(o events.Override) string {
	switch {
	case !o.Until.IsZero() && o.UntilPush:
		return "until a push or " + o.Until.String()
	case !o.Until.IsZero():
		return "until " + o.Until.String()
	case o.UntilPush:
		return "until a push"
	}
	return "for ever"
}

func named(host, check string) string {
	if check == "" {
		return host
	}
	return check + " on " + host
}

func optional(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

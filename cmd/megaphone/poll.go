package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/bus"
)

// pollTimeout bounds `megaphone poll`: the check's own timeout, a minute at most,
// and some time for the way.
const pollTimeout = 75 * time.Second

func newPoll() *cobra.Command {
	c := client{limit: pollTimeout}
	var fresh time.Duration
	cmd := &cobra.Command{
		Use: "poll ID", Short: "Poll a check now and show what was found",
		Long: "Ask the worker that polls a check to do it now, and show the check with what was found. A result that is\n" +
			"not older than a second is shown without a poll: a check is polled once a second at most because somebody asks.",
		Example: "  megaphone poll db\n  megaphone poll db --host web02 --json",
		Args:    takes(1, 1, "an ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd, func(ctx context.Context, conn *bus.Conn) error {
				host, err := c.on(ctx, conn)
				if err != nil {
					return err
				}
				a, err := conn.Poll(ctx, host, args[0], fresh)
				switch {
				case err != nil:
					return err
				case c.json:
					return printJSON(cmd.OutOrStdout(), a.Check)
				}
				return printCheck(cmd.OutOrStdout(), a.Check)
			})
		},
	}
	cmd.Flags().Var((*durationValue)(&fresh), "fresh", "a result that is not older will do")
	c.bindHost(cmd)
	c.bindJSON(cmd, "print the check as one JSON value")
	c.bindBus(cmd)
	return cmd
}

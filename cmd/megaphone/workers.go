package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
)

// workersWait is how long heartbeats are listened to: every worker that is there
// is heard once.
const workersWait = bus.HeartbeatInterval + 500*time.Millisecond

func newWorkers() *cobra.Command {
	var c client
	wait := workersWait
	cmd := &cobra.Command{
		Use: "workers", Short: "Show who polls, and how they get on",
		Long: "Listen to the heartbeats of the workers on the bus, one of each in " + bus.HeartbeatInterval.String() + ", and show them. Polls, errors and\n" +
			"lateness are those of the last minute. A worker that suspects itself polls, but its results do not count.",
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd, func(ctx context.Context, conn *bus.Conn) error {
				there, err := listenFor(ctx, conn, wait)
				if err != nil {
					return err
				}
				if c.json {
					return printJSON(cmd.OutOrStdout(), map[string][]events.Heartbeat{"workers": there})
				}
				return printWorkers(cmd.OutOrStdout(), there)
			})
		},
	}
	cmd.Flags().Var((*durationValue)(&wait), "wait", "how long to listen, at most 10s")
	c.bindJSON(cmd, "print one JSON value: the last heartbeat of each")
	c.bindBus(cmd)
	return cmd
}

// listenFor returns the workers that are heard within a while.
func listenFor(ctx context.Context, conn *bus.Conn, wait time.Duration) ([]events.Heartbeat, error) {
	beats, err := conn.Heartbeats(pollers.Role, nil)
	if err != nil {
		return nil, err
	}
	defer beats.Close()
	enough := time.NewTimer(wait)
	defer enough.Stop()
	select {
	case <-enough.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return append([]events.Heartbeat{}, beats.Live()...), nil
}

func printWorkers(w io.Writer, there []events.Heartbeat) error {
	if len(there) == 0 {
		_, err := fmt.Fprintln(w, "no worker was heard: nothing is polled")
		return err
	}
	rows := [][]string{{"WORKER", "HOST", "PARTITIONS", "CHECKS", "POLLS/S", "LATE", "DROPPED", "ERRORS", "SINCE", "SUSPECTS ITSELF"}}
	for _, b := range there {
		work := cmp.Or(b.Work, &events.Work{})
		rows = append(rows, []string{
			b.Name, dash(b.Host), held(b.Pools, work.Partitions), fmt.Sprint(work.Checks), fmt.Sprintf("%.1f", work.PollsPerSecond),
			time.Duration(work.LateSeconds * float64(time.Second)).Round(time.Millisecond).String(), fmt.Sprint(work.Dropped),
			fmt.Sprintf("%.1f%%", 100*work.ErrorShare), since(b.Started), dash(work.Suspect),
		})
	}
	return table(w, rows...)
}

// held says how many partitions of each of its pools a worker has.
func held(pools []string, has map[string]int) string {
	for pool := range maps.Keys(has) {
		if !slices.Contains(pools, pool) {
			pools = append(pools, pool)
		}
	}
	var out []string
	for _, pool := range pools {
		out = append(out, fmt.Sprintf("%s:%d", pool, has[pool]))
	}
	return strings.Join(out, " ")
}

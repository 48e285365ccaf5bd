package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/events"
)

// nagiosTable is word and exit code of each status, as in the Nagios plugin
// guidelines. Their order is not that of our severities.
var nagiosTable = map[events.Status]struct {
	word string
	code int
}{
	events.OK: {"OK", 0}, events.Warning: {"WARNING", 1}, events.Critical: {"CRITICAL", 2}, events.Unknown: {"UNKNOWN", 3},
}

// legacyCheckName is the name under which the binary behaves as the original's
// Nagios plugin.
const legacyCheckName = "megaphone_check"

const (
	nagiosUnknown = 3 // also for bad arguments and --help: the guidelines say so
	maxAnswer     = 8 << 20
)

// nagiosFlags are the arguments of the plugin.
type nagiosFlags struct {
	address string
	port    int
	host    string
	check   string
	timeout time.Duration
}

func newNagios() *cobra.Command {
	f := &nagiosFlags{}
	cmd := &cobra.Command{
		Use: "nagios -H ADDR", Short: "Ask a gateway as a Nagios plugin does",
		Long: "Ask a gateway over HTTP and exit as a Nagios plugin: 0 OK, 1 Warning, 2 Critical, 3 Unknown. Without --host\n" +
			"it asks for the gateway's own host, which works with an original Megaphone too.",
		Example: "  megaphone nagios -H web01.example.com\n  megaphone nagios -H 127.0.0.1 --host web07 --check db -t 5",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.address == "" {
				return usage("nagios needs -H ADDR")
			}
			return f.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.address, "address", "H", "", "`ADDR` of the gateway")
	fs.IntVarP(&f.port, "port", "p", defaultPort, "its port")
	fs.StringVar(&f.host, "host", "", "`NAME` of the host (default: the gateway's own)")
	fs.StringVar(&f.check, "check", "", "`ID` of one check, instead of the whole host")
	f.timeout = 10 * time.Second
	fs.VarP((*durationValue)(&f.timeout), "timeout", "t", "how long to wait for the answer")
	return asPlugin(cmd)
}

// newLegacyCheck takes the arguments of the original's plugin. Its first word is
// the original's too; its exit codes are those that Nagios expects, where the
// original's were 0 and 1 only.
func newLegacyCheck() *cobra.Command {
	f := &nagiosFlags{port: defaultPort, timeout: 10 * time.Second}
	cmd := &cobra.Command{
		Use: legacyCheckName + " -i ADDR [-c CHECK]", Short: "The original's Nagios plugin", Hidden: true,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.address == "" {
				return usage("%s needs -i ADDR", legacyCheckName)
			}
			status, message := f.original(cmd.Context())
			word := status.String()
			if status == events.OK {
				word = "INFO"
			}
			return answer(cmd.OutOrStdout(), status, word+": "+plain(message))
		},
	}
	cmd.Flags().StringVarP(&f.address, "ipaddr", "i", "", "`ADDR` to test")
	cmd.Flags().StringVarP(&f.check, "check", "c", "", "`ID` of one check, instead of the whole host")
	return asPlugin(cmd)
}

// asPlugin makes bad arguments an Unknown: Nagios takes exit code 2 for Critical.
func asPlugin(cmd *cobra.Command) *cobra.Command {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{nagiosUnknown, fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
	})
	args, do := cmd.Args, cmd.RunE
	unknown := func(err error) error {
		var e *exitError
		if errors.As(err, &e) && e.code == exitUsage && e.err != nil {
			return &exitError{nagiosUnknown, e.err}
		}
		return err
	}
	cmd.Args = func(cmd *cobra.Command, a []string) error { return unknown(args(cmd, a)) }
	cmd.RunE = func(cmd *cobra.Command, a []string) error { return unknown(do(cmd, a)) }
	return cmd
}

// answer prints the one line of a plugin and exits by the table.
func answer(w io.Writer, s events.Status, line string) error {
	if _, err := fmt.Fprintln(w, line); err != nil {
		return &exitError{nagiosUnknown, err}
	}
	if code := nagiosTable[s].code; code != 0 {
		return &exitError{code: code}
	}
	return nil
}

func (f *nagiosFlags) run(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	found, err := f.find(ctx)
	if err != nil {
		status, text := f.failure(ctx, err)
		return answer(w, status, nagiosTable[status].word+" - "+plain(text))
	}
	status := found.status
	if found.maintenance {
		status = events.OK // whoever set it knows; the text says so
	}
	return answer(w, status, found.line(status))
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
)

// discoverLimit bounds `discover`.
const discoverLimit = 2 * time.Minute

func newDiscover() *cobra.Command {
	var asJSON bool
	var ports []uint
	timeout := pollers.DefaultAskTimeout
	cmd := &cobra.Command{
		Use: "discover", Short: "List what could be watched on this machine",
		Long: "List what listens on this machine (TCP), which status document it has, and the command that would register a\n" +
			"check of it. Each socket that loopback reaches is asked by GET for " + strings.Join(pollers.AskedPaths, ", ") + ", until one\n" +
			"answers with a status document. Nothing else is connected to, and nothing is registered. What should be registered\n" +
			"as soon as it appears is said by rules in discover.d: see docs/discovery.md.",
		Example: "  megaphone discover\n  megaphone discover --json",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), discoverLimit)
			defer cancel()
			only, err := portNumbers(ports)
			if err != nil {
				return err
			}
			if timeout < events.MinDuration {
				return usage("--timeout %s: it must be at least %s", timeout, events.MinDuration)
			}
			s, err := pollers.Look(ctx, pollers.LookOptions{Ports: only, Timeout: timeout})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			return printSurvey(cmd.OutOrStdout(), s, timeout)
		},
	}
	cmd.Flags().UintSliceVar(&ports, "port", nil, "`PORT` to look at, any number of times (default all)")
	cmd.Flags().Lookup("port").DefValue = "" // not "[]"
	cmd.Flags().Var((*durationValue)(&timeout), "timeout", "of one request")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func portNumbers(ports []uint) (numbers []uint16, err error) {
	for _, p := range ports {
		if p == 0 || p > math.MaxUint16 {
			return nil, usage("--port %d: a port is 1 to 65535", p)
		}
		numbers = append(numbers, uint16(p))
	}
	return numbers, nil
}

// printSurvey prints what can be pasted into a shell: comments, and a command for
// each candidate.
func printSurvey(w io.Writer, s pollers.Survey, timeout time.Duration) error {
	var b strings.Builder
	hidden := 0
	for _, c := range s.Candidates {
		who := "owner not shown to this user"
		if c.PID != 0 {
			who = fmt.Sprintf("%s (process %d)", c.Process, c.PID)
		} else {
			hidden++
		}
		fmt.Fprintf(&b, "# %s\n", oneLine(fmt.Sprintf("%s, %s: %s", c.Listens, who, c.Note)))
		if c.Registration != nil {
			fmt.Fprintf(&b, "megaphone register %s %s\n", c.Registration.ID, shellURL(c.Registration.URL))
		}
	}
	fmt.Fprintf(&b, "# %d TCP sockets listen here. %d were asked, over loopback only, by %d GETs of %s at most for %s.\n",
		s.Sockets, s.Asked, s.Requests, events.Duration(timeout), strings.Join(pollers.AskedPaths, " "))
	if s.Left > 0 {
		fmt.Fprintf(&b, "# %d more were not looked at: it looks at %d.\n", s.Left, pollers.MaxCandidates)
	}
	if hidden > 0 {
		fmt.Fprintf(&b, "# Of %d the owner is not shown to this user: run it as root to see more.\n", hidden)
	}
	b.WriteString("# Nothing was registered.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

var shellPlain = regexp.MustCompile(`^[A-Za-z0-9:/._-]+$`)

// shellURL is a url as an argument in a shell: it holds no single quotes.
func shellURL(raw json.RawMessage) string {
	text := string(raw)
	var addr string
	if json.Unmarshal(raw, &addr) == nil {
		text = addr
	}
	if shellPlain.MatchString(text) {
		return text
	}
	return "'" + text + "'"
}

// oneLineMax bounds what a service may say in a comment, in bytes.
const oneLineMax = 200

// oneLine is a text that stays a comment: what a service or a process calls itself
// could otherwise end the line, and would be run by whoever pastes it.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	return events.Cut(text, oneLineMax)
}

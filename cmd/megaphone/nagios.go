package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
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

// finding is what the plugin found out about a host or check.
type finding struct {
	name        string // of the host, or of check and host
	status      events.Status
	maintenance bool
	message     string
	counts      *events.Counts // of a host; nil where unknown
	age         *float64       // seconds
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

func (f *nagiosFlags) find(ctx context.Context) (finding, error) {
	switch {
	case f.host == "" && f.check == "":
		return f.findRoot(ctx)
	case f.host == "":
		var d statusDocument
		err := f.get(ctx, "/checks/"+url.PathEscape(f.check), &d)
		return finding{name: f.check, status: d.Status, message: d.text()}, err
	case f.check == "":
		var v events.HostView
		err := f.get(ctx, "/hosts/"+url.PathEscape(f.host), &v)
		return finding{v.Host, v.Status, v.Phase == events.Maintenance, v.Message, &v.Checks, v.AgeSeconds}, err
	}
	var v events.CheckView
	err := f.get(ctx, "/hosts/"+url.PathEscape(f.host)+"/checks/"+url.PathEscape(f.check), &v)
	return finding{v.Check + " on " + v.Host, v.Status, v.Phase == events.Maintenance, v.Message, nil, v.AgeSeconds}, err
}

// statusDocument is what the original's routes answer.
type statusDocument struct {
	Status  events.Status   `json:"status"`
	Message json.RawMessage `json:"message"`
}

func (d statusDocument) text() string {
	text, _ := events.MessageText(d.Message)
	return text
}

// findRoot uses the original's API alone. The counts come from the ids that are
// registered and the message, which names every check that is not OK.
func (f *nagiosFlags) findRoot(ctx context.Context) (finding, error) {
	var d statusDocument
	if err := f.get(ctx, "/", &d); err != nil {
		return finding{}, err
	}
	found := finding{name: f.address, status: d.Status, message: d.text()}
	var checks map[string]json.RawMessage
	if err := f.get(ctx, "/checks", &checks); err != nil {
		return found, nil // the status is what matters
	}
	if _, overridden := checks[events.GlobalID]; !overridden {
		counts := countMessage(found.message, checks)
		found.counts = &counts
	}
	return found, nil
}

// countMessage counts the parts id:Status:text of a message joined by "|". A
// text may hold "|" itself; then what follows it is no part unless it begins
// with an id that is registered.
func countMessage(message string, checks map[string]json.RawMessage) events.Counts {
	told := map[string]events.Status{}
	for part := range strings.SplitSeq(message, "|") {
		for _, s := range []events.Status{events.Unknown, events.Warning, events.Critical} {
			id, _, ok := strings.Cut(part, ":"+s.String()+":")
			if _, known := checks[id]; ok && known {
				told[id] = s
			}
		}
	}
	var c events.Counts
	for id := range checks {
		switch told[id] { // the zero value is Unknown: look whether it was told
		case events.Warning:
			c.Warning++
		case events.Critical:
			c.Critical++
		default:
			if _, ok := told[id]; ok {
				c.Unknown++
			} else {
				c.OK++
			}
		}
	}
	return c
}

// line is the plugin's output: text, "|", figures.
func (d finding) line(shown events.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s - %s: ", nagiosTable[shown].word, plain(d.name))
	text := plain(d.message)
	if d.maintenance {
		fmt.Fprintf(&b, "maintenance, %s without it: ", d.status)
	}
	if c := d.counts; c != nil && !d.maintenance {
		var parts []string
		for _, n := range []struct {
			count int
			word  string
		}{{c.Critical, "critical"}, {c.Warning, "warning"}, {c.Unknown, "unknown"}, {c.Pending, "pending"}} {
			if n.count > 0 {
				parts = append(parts, strconv.Itoa(n.count)+" "+n.word)
			}
		}
		if len(parts) > 0 {
			text = fmt.Sprintf("%s of %d (%s)", strings.Join(parts, ", "), total(*c), partsOf(d.message))
		}
	}
	b.WriteString(text)
	if figures := d.figures(); figures != "" {
		b.WriteString(" | " + figures)
	}
	return b.String()
}

// partsOf writes the original's joined message for people.
func partsOf(message string) string {
	parts := strings.Split(message, "|")
	for i, part := range parts {
		for _, s := range []string{":Unknown:", ":Warning:", ":Critical:"} {
			if id, text, ok := strings.Cut(part, s); ok {
				part = id + ": " + text
				break
			}
		}
		parts[i] = plain(part)
	}
	return strings.Join(parts, "; ")
}

func total(c events.Counts) int { return c.OK + c.Unknown + c.Warning + c.Critical + c.Pending }

func (d finding) figures() string {
	var parts []string
	if c := d.counts; c != nil {
		n := total(*c)
		parts = append(parts, fmt.Sprintf("checks=%d ok=%d;;;0;%d warning=%d critical=%d unknown=%d", n, c.OK, n, c.Warning, c.Critical, c.Unknown))
	}
	if d.age != nil {
		parts = append(parts, "age="+strconv.FormatFloat(*d.age, 'f', 1, 64)+"s")
	}
	return strings.Join(parts, " ")
}

// original answers as the original's plugin asks: its API alone, any failure
// Critical.
func (f *nagiosFlags) original(ctx context.Context) (events.Status, string) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	path := "/"
	if f.check != "" {
		path = "/checks/" + url.PathEscape(f.check)
	}
	var d statusDocument
	if err := f.get(ctx, path, &d); err != nil {
		return f.failure(ctx, err)
	}
	return d.Status, d.text()
}

// answerError is an answer that is no status: the gateway is there, so nothing
// is known of the host.
type answerError struct{ text string }

func (e *answerError) Error() string { return e.text }

// textNoConnection is how the original's API tells that a check's service does
// not answer.
const textNoConnection = "Error connecting to: "

// failure is what a failed question amounts to: nobody who answers is Critical,
// an answer that says nothing is Unknown.
func (f *nagiosFlags) failure(ctx context.Context, err error) (events.Status, string) {
	var unclear *answerError
	if errors.As(err, &unclear) {
		if strings.Contains(unclear.text, textNoConnection) {
			return events.Critical, unclear.text
		}
		return events.Unknown, unclear.text
	}
	at := "http://" + net.JoinHostPort(f.address, strconv.Itoa(f.port))
	if ctx.Err() != nil {
		return events.Critical, fmt.Sprintf("Unable to communicate with %s: no answer within %s", at, events.Duration(f.timeout))
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return events.Critical, fmt.Sprintf("Unable to communicate with %s: %s", at, err)
}

// get asks the gateway for a JSON object. path is escaped already.
func (f *nagiosFlags) get(ctx context.Context, path string, v any) error {
	at := "http://" + net.JoinHostPort(f.address, strconv.Itoa(f.port)) + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return &answerError{err.Error()}
	}
	req.Header.Set("Accept", "application/json")
	transport := &http.Transport{DisableKeepAlives: true} // one or two requests, then the process ends
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); res.StatusCode != http.StatusOK || err != nil {
		return &answerError{fmt.Sprintf("%s answers %s: %s", at, res.Status, reasonIn(body))}
	}
	return nil
}

// reasonIn finds what an answer says about itself: the detail of a problem
// document, else its beginning.
func reasonIn(body []byte) string {
	var problem struct{ Title, Detail string }
	if json.Unmarshal(body, &problem) == nil {
		for _, text := range []string{problem.Detail, problem.Title} {
			if text != "" {
				return text
			}
		}
	}
	return events.Cut(strings.TrimSpace(string(body)), 200)
}

// plain makes a text fit for the one line before the figures.
func plain(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" })
	return strings.ReplaceAll(strings.Join(lines, "; "), "|", "/")
}

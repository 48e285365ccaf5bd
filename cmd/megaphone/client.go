package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// clientTimeout bounds a client command, apart from watch.
const clientTimeout = 10 * time.Second

// client is what the commands that talk to the bus share.
type client struct {
	url   string
	creds string
	cert  string // this client's, where the bus asks for one
	key   string
	ca    string // of the bus
	host  string // whose check; empty: the local host
	json  bool
	limit time.Duration // of the command; 0 means clientTimeout
}

// bindBus declares the flags of every client command. The environment may give
// the bus too, as it does for the long-running commands.
func (c *client) bindBus(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&c.url, "bus", "", "`URL` of the bus (default $MEGAPHONE_BUS, else nats://"+defaultBusListen+")")
	fs.StringVar(&c.creds, "bus-creds", "", "`FILE` with user:password, where the bus asks for it (default $MEGAPHONE_BUS_CREDS)")
	fs.StringVar(&c.ca, "bus-tls-ca", "", "`FILE` with the authorities of a bus that speaks TLS (default $MEGAPHONE_BUS_TLS_CA)")
	fs.StringVar(&c.cert, "bus-tls-cert", "", "`FILE` with this client's certificate (default $MEGAPHONE_BUS_TLS_CERT)")
	fs.StringVar(&c.key, "bus-tls-key", "", "`FILE` with its key (default $MEGAPHONE_BUS_TLS_KEY)")
}

func (c *client) bindHost(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.host, "host", "", "`NAME` of the host (default: the local one)")
}

func (c *client) bindJSON(cmd *cobra.Command, about string) {
	cmd.Flags().BoolVar(&c.json, "json", false, about)
}

// connect fails at once where nothing listens. The error is one line that says
// what to try.
func (c *client) connect(ctx context.Context) (*bus.Conn, error) {
	url := cmp.Or(c.url, os.Getenv(envPrefix+"BUS"), "nats://"+defaultBusListen)
	creds := cmp.Or(c.creds, os.Getenv(envPrefix+"BUS_CREDS"))
	opts, err := busTLSOptions(c.cert, c.key, c.ca)
	if err != nil {
		return nil, err
	}
	opts = append(opts, bus.WithName("cli-"+cmp.Or(os.Getenv("USER"), "unknown")), bus.WithNATS(nats.Timeout(2*time.Second)))
	if creds != "" {
		opts = append(opts, bus.WithCreds(creds))
	}
	conn, err := bus.Connect(ctx, url, opts...)
	switch {
	case errors.Is(err, nats.ErrAuthorization):
		return nil, fmt.Errorf("the bus at %s refuses the credentials: give those of its bus.creds with --bus-creds", url)
	case err != nil && creds != "":
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("no bus answers at %s: start `megaphone serve`, or name another with --bus", url)
	}
	return conn, nil
}

// with runs a command on a connection and within its limit.
func (c *client) with(cmd *cobra.Command, do func(context.Context, *bus.Conn) error) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), cmp.Or(c.limit, clientTimeout))
	defer cancel()
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return hint(do(ctx, conn))
}

// hint says what to try about an error of the bus that does not say so itself.
func hint(err error) error {
	switch {
	case errors.Is(err, bus.ErrNoService):
		return fmt.Errorf("%w: start `megaphone serve`, or `megaphone gateway` on this bus", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: the bus is there but did not answer in time", err)
	}
	return err
}

// on returns the host that a command is about: --host, else that of the gateway
// on the bus, else the machine's.
func (c *client) on(ctx context.Context, conn *bus.Conn) (string, error) {
	if c.host != "" {
		return events.ParseHost(c.host)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	a, err := conn.Status(ctx, events.StatusQuery{})
	switch {
	case errors.Is(err, bus.ErrRefused): // it is there, so its host may have another name than the machine
		return "", fmt.Errorf("ask for the local host: %w; name it with --host", err)
	case err == nil && a.Local != "":
		return a.Local, nil
	}
	return machineHost(os.Hostname)
}

// table writes rows of columns separated by tabs, aligned. Whoever pushes chooses
// a message: what would move the terminal's cursor, or begin a row, is a "?".
func table(w io.Writer, rows ...[]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			cell = strings.NewReplacer("\t", " ", "\n", "; ", "\r", "").Replace(cell)
			row[i] = strings.Map(visible, cell)
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return t.Flush()
}

func visible(r rune) rune {
	if unicode.IsControl(r) {
		return '?'
	}
	return r
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

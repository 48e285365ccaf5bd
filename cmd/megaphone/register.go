package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// origin is who registers by this program.
const originCLI = "cli"

// registerFlags are the flags of register as they come.
type registerFlags struct {
	client
	interval, timeout, ttl, startPeriod time.Duration
	onSilence                           string
	rise, fall                          int
	labels                              map[string]string
	pool, jsonpath, override            string
}

func newRegister() *cobra.Command {
	f := &registerFlags{labels: map[string]string{}}
	cmd := &cobra.Command{
		Use: "register ID [URL]", Short: "Register a check, or replace it",
		Long: "Register a check, or replace it. With a URL workers look at its service: the scheme says how (http, tcp, tls,\n" +
			"dns, grpc and others; see docs/checks.md), and a JSON object with addr and options says more. Without one the\n" +
			"service pushes its status by itself, and --ttl says for how long it may be silent.",
		Example: "  megaphone register db http://localhost:8080/status\n" +
			"  megaphone register imap '{\"addr\":\"tls://mail.example.com:993\",\"cert_warning_days\":21}'\n" +
			"  megaphone register backup --ttl 26h --on-silence Warning",
		Args: takes(1, 2, "an ID, and a URL for a check that is polled"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.registration(args)
			if err != nil {
				return err
			}
			return f.with(cmd, func(ctx context.Context, conn *bus.Conn) error {
				if r.Host, err = f.on(ctx, conn); err != nil {
					return err
				}
				if _, err := conn.Register(ctx, r); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "registered %s on %s\n", r.ID, r.Host)
				return err
			})
		},
	}
	f.bind(cmd)
	return cmd
}

func (f *registerFlags) bind(cmd *cobra.Command) {
	fs := cmd.Flags()
	f.bindHost(cmd)
	fs.Var((*durationValue)(&f.interval), "interval", "between two polls (default that of the workers)")
	fs.Var((*durationValue)(&f.timeout), "timeout", "of one poll (default that of the workers)")
	fs.Var((*durationValue)(&f.ttl), "ttl", "how long a service that pushes may be silent")
	fs.StringVar(&f.onSilence, "on-silence", "", "`STATUS` of a service that was silent for longer (default Critical)")
	fs.IntVar(&f.rise, "rise", 0, "results in a row needed to become better (default 1)")
	fs.IntVar(&f.fall, "fall", 0, "results in a row needed to become worse (default 1)")
	fs.Var((*durationValue)(&f.startPeriod), "start-period", "how long failures after the registration are shown as pending")
	fs.Var(labelsValue(f.labels), "label", "label, any number of times")
	fs.StringVar(&f.pool, "pool", "", "`NAME` of the workers that may poll it (default by its address)")
	fs.StringVar(&f.jsonpath, "jsonpath", "", "`PATH` of the status in the document, its keys separated by /")
	fs.StringVar(&f.override, "statusoverride", "", "`STATUS` to show whatever the service says")
	f.bindBus(cmd)
	hideZero(cmd)
}

// hideZero keeps "(default 0s)" out of the help: zero is "not given".
func hideZero(cmd *cobra.Command) {
	for _, name := range []string{"interval", "timeout", "ttl", "start-period", "for", "since"} {
		if fl := cmd.Flags().Lookup(name); fl != nil {
			fl.DefValue = ""
		}
	}
}

// registration builds and checks what the flags say; the host comes later.
func (f *registerFlags) registration(args []string) (events.Registration, error) {
	r := events.Registration{
		ID: args[0], Interval: events.Duration(f.interval), Timeout: events.Duration(f.timeout),
		TTL: events.Duration(f.ttl), StartPeriod: events.Duration(f.startPeriod),
		Rise: f.rise, Fall: f.fall, Pool: f.pool, Origin: originCLI,
	}
	if len(f.labels) > 0 {
		r.Labels = f.labels
	}
	if f.onSilence != "" {
		s, err := events.ParseStatus(f.onSilence)
		if err != nil {
			return r, usage("--on-silence: %w", err)
		}
		r.OnSilence = &s
	}
	if len(args) == 2 {
		url, err := f.url(args[1])
		if err != nil {
			return r, err
		}
		r.URL = url
	} else if f.jsonpath != "" || f.override != "" {
		return r, usage("--jsonpath and --statusoverride are about a document that is polled: give a URL")
	}
	return r, r.ValidateStrict()
}

// url is the url as the original's clients post it: a string, or an object
// where there is more to say.
func (f *registerFlags) url(addr string) (json.RawMessage, error) {
	if strings.HasPrefix(addr, "{") {
		switch {
		case f.jsonpath != "" || f.override != "":
			return nil, usage("--jsonpath and --statusoverride belong into an object URL: {\"addr\":...,\"jsonpath\":...}")
		case !json.Valid([]byte(addr)):
			return nil, usage("%s is not a JSON object", addr)
		}
		return json.RawMessage(addr), nil
	}
	if f.jsonpath == "" && f.override == "" {
		return json.Marshal(addr)
	}
	return json.Marshal(struct {
		Addr     string `json:"addr"`
		JSONPath string `json:"jsonpath,omitempty"`
		Override string `json:"statusoverride,omitempty"`
	}{addr, f.jsonpath, f.override})
}

func newDeregister() *cobra.Command {
	f := &client{}
	cmd := &cobra.Command{
		Use: "deregister ID", Short: "End the registration of a check",
		Args: takes(1, 1, "an ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd, func(ctx context.Context, conn *bus.Conn) error {
				host, err := f.on(ctx, conn)
				if err != nil {
					return err
				}
				if err := conn.Deregister(ctx, host, args[0]); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "deregistered %s on %s\n", args[0], host)
				return err
			})
		},
	}
	f.bindHost(cmd)
	f.bindBus(cmd)
	return cmd
}

func newPush() *cobra.Command {
	var ttl time.Duration
	f := &client{}
	cmd := &cobra.Command{
		Use: "push ID STATUS [MESSAGE]", Short: "Push the status of a service",
		Long: "Push the status of a service: OK, Unknown, Warning or Critical. An ID that is not registered yet is\n" +
			"registered by its first push.",
		Example: "  megaphone push backup OK\n  megaphone push queue Warning 'queue is long' --ttl 60s",
		Args:    takes(2, 3, "an ID, a status and at most one message"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := pushed(args, ttl)
			if err != nil {
				return err
			}
			return f.with(cmd, func(ctx context.Context, conn *bus.Conn) error {
				host, err := f.on(ctx, conn)
				if err != nil {
					return err
				}
				_, err = conn.Push(ctx, host, args[0], r)
				return err
			})
		},
	}
	f.bindHost(cmd)
	cmd.Flags().Var((*durationValue)(&ttl), "ttl", "until when silence is a failure (default that of the registration, if it has one)")
	hideZero(cmd)
	f.bindBus(cmd)
	return cmd
}

func pushed(args []string, ttl time.Duration) (events.Result, error) {
	if _, err := events.ParseCheck(args[0]); err != nil {
		return events.Result{}, err
	}
	status, err := events.ParseStatus(args[1])
	if err != nil {
		return events.Result{}, usage("%w", err)
	}
	r := events.Result{Status: status, Message: events.NoMessage(status), TTL: events.Duration(ttl), Origin: originCLI}
	if len(args) == 3 {
		r.Message = events.Cut(args[2], events.MaxMessage)
	}
	return r, nil
}

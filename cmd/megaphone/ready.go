package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// readiness is what the ready file says. An address that is not served is absent.
type readiness struct {
	HTTP  string `json:"http,omitempty"`
	Bus   string `json:"bus,omitempty"`
	Agent string `json:"agent_check,omitempty"`
	GRPC  string `json:"grpc,omitempty"`
	PID   int    `json:"pid"`
}

// write replaces the ready file as a whole.
func (r readiness) write(path string) error {
	b, err := json.Marshal(r)
	if err == nil {
		err = writeFile(path, append(b, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write --ready-file %s: %w", path, cause(err))
	}
	return nil
}

// httpURL is where this machine reaches what listens on address. Of a wildcard
// it is the loopback of the same kind.
func httpURL(scheme, address string, at net.Addr) string {
	_, port, err := net.SplitHostPort(at.String())
	if err != nil {
		return scheme + "://" + at.String()
	}
	switch ip := net.ParseIP(address); {
	case ip == nil || !ip.IsUnspecified():
	case ip.To4() != nil:
		address = "127.0.0.1"
	default:
		address = "::1"
	}
	return scheme + "://" + net.JoinHostPort(address, port)
}

// systemd tells the service manager how the process is, where there is one.
type systemd struct{ log *slog.Logger }

func (s systemd) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("notify systemd", "state", state, "error", err)
	}
}

// watchdog tells systemd at half its interval that the process is well, until
// ctx ends. healthy must return within the time it is given; while it does not,
// systemd hears nothing and restarts the process.
func (s systemd) watchdog(ctx context.Context, healthy func(context.Context) error) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		if err != nil {
			s.log.Warn("systemd watchdog", "error", err)
		}
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.ask(ctx, every/2, healthy); err != nil {
			s.log.Error("not well: systemd is not told otherwise", "error", err)
			continue
		}
		s.notify(daemon.SdNotifyWatchdog)
	}
}

func (s systemd) ask(ctx context.Context, within time.Duration, healthy func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return healthy(ctx)
}

// removeReady is for the way down: nothing answers any more.
func removeReady(path string, log *slog.Logger) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		log.Warn("remove the ready file", "file", path, "error", err)
	}
}

package pollers

import (
	"context"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// The built-in check of a host in a fleet: its worker pushes with each heartbeat.
// Silence of three of them is Critical, by which a host that died is told from a
// check that cannot be polled.
const (
	SelfCheck       = "megaphone"
	selfOrigin      = "worker"
	selfTTL         = 3 * bus.HeartbeatInterval
	selfStoppedTTL  = 10 * 365 * 24 * time.Hour // of the last push: who stopped in good order may be silent
	selfStopTimeout = time.Second               // of that push
)

// sayAlive keeps the built-in check of the worker's host until ctx ends, and ends
// it as stopped. A check of that name that somebody else registered is left alone.
func (w *Worker) sayAlive(ctx context.Context) {
	t := time.NewTicker(bus.HeartbeatInterval)
	defer t.Stop()
	for {
		if err := w.pushAlive(ctx); err != nil && ctx.Err() == nil {
			w.conf.Logger.Debug("built-in check", "check", SelfCheck, "error", err) // it is tried again
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), selfStopTimeout)
			defer cancel()
			if !w.ownsSelf() {
				return
			}
			_, err := w.conf.Conn.Push(ctx, w.conf.Host, SelfCheck, events.Result{
				Status: events.Unknown, Message: "stopped", TTL: events.Duration(selfStoppedTTL), Origin: selfOrigin,
			})
			if err != nil {
				w.conf.Logger.Warn("the end of this worker is not told: its host will be Critical", "error", err)
			}
			return
		}
	}
}

func (w *Worker) ownsSelf() bool {
	e, ok := w.conf.Registry.Check(w.conf.Host, SelfCheck)
	return ok && e.Registration.Origin == selfOrigin
}

func (w *Worker) pushAlive(ctx context.Context) error {
	if _, there := w.conf.Registry.Check(w.conf.Host, SelfCheck); !there {
		_, err := w.conf.Registry.Register(ctx, events.Registration{
			ID: SelfCheck, Host: w.conf.Host, TTL: events.Duration(selfTTL), Origin: selfOrigin,
		})
		if err != nil {
			return err
		}
	}
	if !w.ownsSelf() {
		return nil
	}
	r := events.Result{Status: events.OK, Message: "the worker of this host is at work", Origin: selfOrigin}
	if reason := w.canary.suspect(); reason != "" {
		r.Status, r.Message = events.Warning, "the worker of this host suspects itself: "+reason
	}
	_, err := w.conf.Conn.Push(ctx, w.conf.Host, SelfCheck, r)
	return err
}

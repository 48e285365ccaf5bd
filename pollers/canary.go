package pollers

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
)

// Times of canaries.
const (
	canaryEvery   = 2 * time.Second        // between two rounds while nobody waits for one
	canaryPause   = 250 * time.Millisecond // at least
	canaryTimeout = 2 * time.Second        // of a round
)

// canaries are targets that answer unless this worker's own network is broken.
// While none of them does, the worker suspects itself. One that answers is
// enough: a canary that died must not silence the worker.
type canaries struct {
	targets []events.Target
	check   Check
	log     *slog.Logger
	ask     chan struct{} // holds one: somebody waits for a round

	mu     sync.Mutex
	began  time.Time // of the last round that has ended
	failed time.Time // when the last round ended in which no canary answered
	reason string    // why the worker suspects itself; empty: it does not
	news   chan struct{}
}

// newCanaries returns nil where there are no addresses.
func newCanaries(addrs []string, check Check, log *slog.Logger) *canaries {
	if len(addrs) == 0 {
		return nil
	}
	c := &canaries{check: check, log: log, ask: make(chan struct{}, 1), news: make(chan struct{})}
	for _, addr := range addrs {
		t, err := CanaryTarget(addr)
		if err != nil {
			log.Warn("canary is not asked", "canary", addr, "error", err)
			continue
		}
		c.targets = append(c.targets, t)
	}
	return c
}

// CanaryTarget reads the address of a canary. Of http and https any answer will do.
func CanaryTarget(addr string) (events.Target, error) {
	url := map[string]string{"addr": addr}
	if s := events.Scheme(addr); s == "http" || s == "https" {
		url["dialect"], url["expect_code"] = "code", "100-599"
	}
	b, err := json.Marshal(url)
	if err != nil {
		return events.Target{}, err
	}
	r := events.Registration{ID: "canary", Host: "canary", URL: b}
	if err := r.ValidateStrict(); err != nil {
		return events.Target{}, err
	}
	if r.Local() {
		return events.Target{}, fmt.Errorf("%w: a canary is looked at over the network, %s is not", events.ErrRegistration, addr)
	}
	return r.Target()
}

// run makes rounds until ctx ends.
func (c *canaries) run(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		c.end(ctx, began, c.round(ctx))
		if !sleep(ctx, canaryPause) {
			return
		}
		rest := time.NewTimer(canaryEvery - canaryPause)
		select {
		case <-ctx.Done():
		case <-rest.C:
		case <-c.ask:
		}
		rest.Stop()
	}
}

// round looks at all canaries and returns why none answered; empty if one did.
func (c *canaries) round(ctx context.Context) (reason string) {
	ctx, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	faults := make(chan string, len(c.targets))
	for _, t := range c.targets {
		go func() {
			f := c.check(ctx, t)
			if f.Err == nil && f.Status != events.Critical {
				cancel() // one is enough
				faults <- ""
				return
			}
			faults <- t.Addr + ": " + f.Message
		}()
	}
	var all []string
	well := len(c.targets) == 0
	for range c.targets { // whoever starts a goroutine waits for it
		if f := <-faults; f == "" {
			well = true
		} else {
			all = append(all, f)
		}
	}
	if well {
		return ""
	}
	return events.Cut("no canary answers: "+strings.Join(all, "; "), 512)
}

func (c *canaries) end(ctx context.Context, began time.Time, reason string) {
	if ctx.Err() != nil {
		return // interrupted
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case reason != "" && c.reason == "":
		c.log.Warn("this worker suspects itself: what it finds does not count", "reason", reason)
	case reason == "" && c.reason != "":
		c.log.Info("this worker trusts itself again")
	}
	c.began, c.reason = began, reason
	if reason != "" {
		c.failed = time.Now()
	}
	close(c.news)
	c.news = make(chan struct{})
}

// suspect returns why the worker suspects itself now; empty if it does not.
func (c *canaries) suspect() string {
	if c == nil {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// verdict returns why what a poll found between two times does not count; empty
// if it does. Bad news is believed only after a canary has answered that was
// asked after it.
func (c *canaries) verdict(ctx context.Context, from, to time.Time, well bool) string {
	if c == nil {
		return ""
	}
	for {
		c.mu.Lock()
		began, failed, reason, news := c.began, c.failed, c.reason, c.news
		c.mu.Unlock()
		switch {
		case reason != "" || well:
			return reason
		case began.After(to) && failed.After(from):
			return "no canary answered while it was polled"
		case began.After(to):
			return ""
		}
		select {
		case c.ask <- struct{}{}:
		default:
		}
		select {
		case <-news:
		case <-ctx.Done():
			return "" // interrupted: it is not published
		}
	}
}

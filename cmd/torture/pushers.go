package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nuid"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// pushers are the services that push: each says its status when it changes and
// again before its ttl is half over, and tries until it is acknowledged.
type pushers struct {
	conn     *bus.Conn // of a client without credentials
	client   *http.Client
	gateways []string
	every    time.Duration // between two pushes of a check

	Attempts, Unacked atomic.Int64

	mu     sync.Mutex
	checks map[name]*pusher
	list   []*pusher
	acks   []ack
}

// pusher is one such service.
type pusher struct {
	name name

	// Used under the lock of pushers.
	say  []events.Status // what is to be pushed, in this order
	last events.Status   // what it said last, and says again now and then
	mute bool

	at time.Time // of the last acknowledgement; used by one goroutine
}

// pushing is how many services push at the same time.
const pushing = 16

// Add begins to push for a check.
func (p *pushers) Add(n name, first events.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checks[n] = &pusher{name: n, say: []events.Status{first}}
	p.list = append(p.list, p.checks[n])
}

// Say makes a check push some statuses, one after the other.
func (p *pushers) Say(n name, statuses ...events.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checks[n].say = append(p.checks[n].say, statuses...)
}

// Mute makes a check say nothing for a while, or speak again.
func (p *pushers) Mute(n name, mute bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checks[n].mute = mute
}

// Acks returns what was acknowledged.
func (p *pushers) Acks() []ack {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acks
}

// Run pushes until ctx ends.
func (p *pushers) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for k := range pushing {
		wg.Go(func() {
			for sleep(ctx, 20*time.Millisecond) {
				p.round(ctx, k)
			}
		})
	}
	wg.Wait()
	return nil
}

// round pushes what the k-th pusher has to.
func (p *pushers) round(ctx context.Context, k int) {
	for i := k; ; i += pushing {
		p.mu.Lock()
		if i >= len(p.list) {
			p.mu.Unlock()
			return
		}
		c := p.list[i]
		news, status, mute := len(c.say) > 0, c.last, c.mute
		if news {
			status = c.say[0]
		}
		p.mu.Unlock()
		if mute || !news && time.Since(c.at) < p.every {
			continue
		}
		if p.push(ctx, c.name, status) != nil {
			return
		}
		p.mu.Lock()
		if c.last, c.at = status, time.Now(); news {
			c.say = c.say[1:]
		}
		p.mu.Unlock()
	}
}

// push tries until the push is acknowledged, or ctx ends.
func (p *pushers) push(ctx context.Context, n name, status events.Status) error {
	a := ack{Name: n, Message: nuid.Next()}
	over := rand.IntN(len(p.gateways) + 1)
	for {
		p.Attempts.Add(1)
		err := p.try(ctx, &a, status, over)
		if err == nil {
			p.mu.Lock()
			p.acks = append(p.acks, a)
			p.mu.Unlock()
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		p.Unacked.Add(1)
		if over < len(p.gateways) {
			over = (over + 1) % len(p.gateways) // the other one; NATS stays NATS, with its message id
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
}

func (p *pushers) try(ctx context.Context, a *ack, status events.Status, over int) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if over == len(p.gateways) {
		a.Position, err = p.conn.PushEvent(ctx, events.Header{
			Type: events.TypeResult, Source: "urn:torture", ID: a.Message, Host: a.Name.Host, Check: a.Name.Check, Time: time.Now(),
		}, events.Result{Status: status, Message: a.Message})
		return err
	}
	body := fmt.Sprintf(`{"status":%q,"message":%q}`, status, a.Message)
	code, text, err := send(ctx, p.client, http.MethodPut, p.gateways[over]+"/hosts/"+a.Name.Host+"/checks/"+a.Name.Check+"/status", body)
	if err == nil && code != http.StatusNoContent {
		err = fmt.Errorf("%d: %s", code, text)
	}
	return err
}

// send makes a request and returns code and body.
func send(ctx context.Context, client *http.Client, method, url, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

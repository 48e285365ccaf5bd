package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// heard is what a subscriber heard, each transition as its id.
type heard struct {
	mu  sync.Mutex
	ids []string
	at  string // the position of the last

	lives int // of its program
}

func (h *heard) add(id, position string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids, h.at = append(h.ids, id), position
}

func (h *heard) list() ([]string, string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ids), h.at
}

// live runs a program, gives its lines to f as they come, and kills it once it
// has heard enough for one life.
func (h *heard) live(ctx context.Context, f func(line string), args ...string) {
	h.lives++
	before, _ := h.list()
	ctx, end := context.WithCancel(ctx)
	defer end()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return // it is started again, and the test waits in vain
	}
	scan := bufio.NewScanner(out)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		f(scan.Text())
		if now, _ := h.list(); len(now)-len(before) >= life {
			end()
		}
	}
	_ = cmd.Wait() // killed
}

// idOf reads the id and the position of a CloudEvent on a line.
func idOf(line string) (id, position string, err error) {
	e, err := events.Decode([]byte(line))
	if err != nil {
		return "", "", err
	}
	position, _ = e.Extensions()["position"].(string)
	return e.ID(), position, nil
}

// Four kinds of subscribers, three of them killed or cut off again and again
// while 10 checks flip 30 times, hear the same list: every transition once, in
// the order in which they were stored.
func TestSubscribersAgree(t *testing.T) {
	skipUnderRace(t)
	is := is.New(t)
	real(t, "curl")
	nats := natsCLI(t)
	p := serve(t, t.TempDir())
	const checks, flips = 10, 30
	code, out := runProgram(t, nats, "--server", p.Ready.Bus, "consumer", "add", "CHANGES", "all",
		"--filter", "megaphone.status.>", "--pull", "--deliver", "all", "--ack", "explicit", "--wait", "2s", "--max-pending", "1", "--defaults")
	t.Log(out)
	is.Equal(code, 0)

	ctx, cancel := context.WithCancel(t.Context())
	var subscribers sync.WaitGroup
	defer subscribers.Wait()
	defer cancel()
	all := map[string]*heard{"watch": {}, "curl": {}, "nats": {}, "Go": {}}
	subscribers.Go(func() { watchAgain(ctx, p, all["watch"]) })
	subscribers.Go(func() { curlAgain(ctx, p, all["curl"]) })
	subscribers.Go(func() { natsAgain(ctx, nats, p, all["nats"]) })
	subscribers.Go(func() { iterate(ctx, p, all["Go"]) })

	for n := range flips {
		for i := range checks {
			p.must("PUT", fmt.Sprintf("/hosts/web%02d/checks/app/status", i), fmt.Sprintf(`{"status":%q}`, events.Statuses()[n%2*3]), http.StatusNoContent)
		}
	}
	var want []string // read at once, after it has all been stored
	c, err := bus.Connect(t.Context(), p.Ready.Bus)
	is.NoErr(err)
	defer c.Close()
	eventually(t, 60*time.Second, "all is stored", func() error {
		want = nil
		for ch, err := range c.Watch(t.Context(), bus.WatchOptions{FromStart: true, Mark: true}) {
			switch {
			case err != nil:
				return err
			case !ch.Complete:
				want = append(want, ch.Event.ID())
				continue
			case len(want) < 2*checks*flips: // of checks and of hosts
				return fmt.Errorf("%d", len(want))
			}
			return nil
		}
		return errNotYet
	})
	for name, h := range all {
		eventually(t, 90*time.Second, name+" heard all", func() error {
			got, _ := h.list()
			if len(got) < len(want) {
				return fmt.Errorf("%d of %d", len(got), len(want))
			}
			return nil
		})
		got, _ := h.list()
		is.Equal(got, want)
	}
	cancel()
	subscribers.Wait()
	for name, h := range all {
		is.True(name == "Go" || h.lives >= 3) // it was killed in between
	}
	t.Logf("%d transitions, heard alike by %d subscribers", len(want), len(all))
}

// life is how many transitions a subscriber hears before it is killed.
const life = 60

// watchAgain runs `megaphone watch`, kills it by SIGKILL and starts it after the
// last position that it printed.
func watchAgain(ctx context.Context, p *process, h *heard) {
	for ctx.Err() == nil {
		args := []string{"megaphone", "watch", "--bus", p.Ready.Bus, "--json", "--from-start"}
		if _, at := h.list(); at != "" {
			args = append(args[:len(args)-1], "--after", at)
		}
		h.live(ctx, func(line string) {
			if id, position, err := idOf(line); err == nil { // not cut in the middle
				h.add(id, position)
			}
		}, args...)
	}
}

// curlAgain reads GET /events by curl, kills it and starts it with the id of the
// last event that it printed whole.
func curlAgain(ctx context.Context, p *process, h *heard) {
	for ctx.Err() == nil {
		_, at := h.list()
		id := ""
		h.live(ctx, func(line string) {
			switch name, value, _ := strings.Cut(line, ": "); name {
			case "id":
				id = value
			case "data":
				if event, _, err := idOf(value); err == nil {
					h.add(event, id)
				}
			}
		}, "curl", "-sN", "-H", "Last-Event-ID: "+max(at, "0"), p.Ready.HTTP+"/events")
	}
}

// natsAgain reads by the nats tool and a durable consumer, and kills the tool.
// What it did not acknowledge comes again: the id tells.
func natsAgain(ctx context.Context, nats string, p *process, h *heard) {
	seen := map[string]bool{}
	for ctx.Err() == nil {
		h.live(ctx, func(line string) {
			if id, _, err := idOf(line); err == nil && !seen[id] {
				seen[id] = true
				h.add(id, "")
			}
		}, nats, "--server", p.Ready.Bus, "consumer", "next", "CHANGES", "all", "--raw", "--ack", "--count", "1000")
	}
}

// iterate uses the iterator and begins anew after each 50 transitions.
func iterate(ctx context.Context, p *process, h *heard) {
	c, err := bus.Connect(ctx, p.Ready.Bus)
	if err != nil {
		return
	}
	defer c.Close()
	o := bus.WatchOptions{FromStart: true}
	for ctx.Err() == nil {
		n := 0
		for ch, err := range c.Watch(ctx, o) {
			var gap *bus.GapError
			if errors.As(err, &gap) {
				h.add(gap.Error(), "") // there is none: the lists will differ
				continue
			}
			if err != nil {
				return
			}
			h.add(ch.Event.ID(), "")
			o.After = ch.Position
			if n++; n == 50 {
				break
			}
		}
	}
}

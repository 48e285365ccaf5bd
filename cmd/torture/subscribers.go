package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/bus"
)

// subscriber is a program that watches all the time and must not miss anything.
type subscriber struct {
	Name string
	run  func(ctx context.Context, s *subscriber) error

	mu  sync.Mutex
	got subscription
}

// Run watches until ctx ends.
func (s *subscriber) Run(ctx context.Context) error { return s.run(ctx, s) }

// Got returns what it got so far.
func (s *subscriber) Got() subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}

// Last is the position of the last transition that it got.
func (s *subscriber) Last() uint64 {
	if list := s.Got().Positions; len(list) > 0 {
		return list[len(list)-1]
	}
	return 0
}

func (s *subscriber) add(position uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got.Positions = append(s.got.Positions, position)
}

func (s *subscriber) gap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got.Gaps++
}

func (s *subscriber) loss() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got.Losses++
}

// iterator is the name of the relay of the subscriber in this process.
const iterator = "bus.Watch"

// watchSubscriber uses the iterator of package bus, through a relay whose
// connections are cut.
func watchSubscriber(url string, log *slog.Logger) *subscriber {
	return &subscriber{Name: iterator, run: func(ctx context.Context, s *subscriber) error {
		c, err := bus.Connect(ctx, url, bus.WithLogger(log), bus.WithNATS(
			nats.IgnoreDiscoveredServers(), nats.DisconnectErrHandler(func(*nats.Conn, error) { s.loss() }),
		))
		if err != nil {
			return err
		}
		defer c.Close()
		for ch, err := range c.Watch(ctx, bus.WatchOptions{FromStart: true}) {
			var gap *bus.GapError
			switch {
			case errors.As(err, &gap):
				log.Warn("watch tells a gap", "error", err)
				s.gap()
			case err != nil:
				return fmt.Errorf("bus.Watch ended: %w", err)
			default:
				s.add(ch.Position)
			}
		}
		return nil
	}}
}

// sseSubscriber reads GET /events of one gateway after the other, as a browser
// would: it resumes with the id of the last event.
func sseSubscriber(name string, gateways []string, log *slog.Logger) *subscriber {
	return &subscriber{Name: name, run: func(ctx context.Context, s *subscriber) error {
		after := "0"
		for i := 0; ctx.Err() == nil; i++ {
			if err := s.readSSE(ctx, gateways[i%len(gateways)]+"/events", &after); err != nil && ctx.Err() == nil {
				log.Debug("sse is interrupted", "subscriber", s.Name, "after", after, "error", err)
			}
			s.loss()
			sleep(ctx, 300*time.Millisecond)
		}
		return nil
	}}
}

// silent is after how long without a byte a stream is given up: a gateway sends
// a comment each 15 s.
const silent = 20 * time.Second

func (s *subscriber) readSSE(ctx context.Context, url string, after *string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(silent, cancel)
	defer watchdog.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Last-Event-ID", *after)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return s.readStream(res.Body, func() { watchdog.Reset(silent) }, after)
}

// readStream reads server-sent events until the stream ends.
func (s *subscriber) readStream(body io.Reader, alive func(), after *string) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	e := sse{after: after}
	for lines.Scan() {
		alive()
		if err := e.line(s, lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// sse is the event of a stream of server-sent events that is being read.
type sse struct {
	id, kind string
	data     bool
	after    *string // the last id
}

// line reads the next line; an empty one completes the event.
func (e *sse) line(s *subscriber, text string) error {
	field, value, _ := strings.Cut(text, ": ")
	switch field {
	case "id":
		e.id = value
	case "event":
		e.kind = value
	case "data":
		e.data = true
	case "":
		done := *e
		*e = sse{after: e.after}
		return done.take(s)
	}
	return nil
}

func (e *sse) take(s *subscriber) error {
	if e.id != "" {
		*e.after = e.id
	}
	switch {
	case !e.data || e.kind == "closed":
	case e.kind == "gap":
		s.gap()
	default:
		position, err := strconv.ParseUint(e.id, 10, 64)
		if err != nil {
			return fmt.Errorf("the id of an event: %w", err)
		}
		s.add(position)
	}
	return nil
}

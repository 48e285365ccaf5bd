package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// Names of the subscribers that are programs. Each has a relay, and is killed,
// stopped and parted as the roles are.
const (
	curl  = "curl"  // SSE by hand
	plain = "nats"  // the plain tool, with a durable consumer
	watch = "watch" // megaphone watch
)

// program makes a subscriber of a program that is started again whenever it
// ends. args are its arguments at each start, and take reads each line that it
// prints.
func (f *fleet) program(name, path string, args func(*subscriber) []string, take func(*subscriber, string) error) *subscriber {
	s := &subscriber{Name: name}
	p := f.process(name, path)
	p.more = func() []string { return args(s) }
	p.out = func() io.Writer {
		if p.starts > 1 {
			s.loss()
		}
		return &lines{take: func(line string) {
			if err := take(s, line); err != nil {
				f.log.Error("a subscriber prints what it should not", "name", name, "line", line, "error", err)
				s.gap()
			}
		}}
	}
	s.run = func(ctx context.Context, _ *subscriber) error { return p.Run(ctx) }
	f.Programs = append(f.Programs, p)
	return s
}

// lines hands on each line that is written to it. A last one without an end is
// that of a program which was killed, and is dropped.
type lines struct {
	take func(line string)
	rest []byte
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.take(string(line))
		l.rest = rest
	}
}

// curlSubscriber reads GET /events with curl, and resumes with the id of the last
// event. It ends with its connection, or when that is silent.
func (f *fleet) curlSubscriber() *subscriber {
	var e *sse
	after := "0"
	s := f.program(curl, "curl", func(*subscriber) []string {
		e = &sse{after: &after}
		return []string{
			"--no-progress-meter", "--no-buffer", "--speed-limit", "1", "--speed-time", strconv.Itoa(int(silent.Seconds())),
			"--header", "Last-Event-ID: " + after, f.Relays[curl].HTTP() + "/events",
		}
	}, func(s *subscriber, line string) error { return e.line(s, line) })
	f.Find(curl).mortal = true
	return s
}

// watchProgram is `megaphone watch`, which prints the position first.
func (f *fleet) watchProgram(path string) *subscriber {
	return f.program(watch, path, func(s *subscriber) []string {
		from := "--from-start"
		if last := s.Last(); last > 0 {
			from = "--after=" + strconv.FormatUint(last, 10)
		}
		return []string{"watch", "--bus", f.Relays[watch].URL(), from}
	}, func(s *subscriber, line string) error {
		first, _, _ := strings.Cut(line, " ")
		position, err := strconv.ParseUint(first, 10, 64)
		if err == nil {
			s.add(position)
		}
		return err
	})
}

// durable is the consumer of the plain tool. One message at a time is on its way,
// so that what is delivered again comes before anything new.
const durable = "torture"

// natsSubscriber is `nats sub --durable`. A message is printed before it is
// acknowledged, so that it comes again if the tool or the server was killed
// between the two: what is not beyond the last position is no news.
func (f *fleet) natsSubscriber(ctx context.Context, path string) (*subscriber, error) {
	add := exec.CommandContext(ctx, path, "--server", f.Bus.URL(), "consumer", "add", bus.StreamChanges, durable, "--pull",
		"--filter", events.StatusSubjects, "--deliver", "all", "--ack", "explicit", "--wait", "3s", "--max-pending", "1", "--defaults")
	if out, err := add.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("add a consumer with the tool nats: %w: %s", err, out)
	}
	s := f.program(plain, path, func(*subscriber) []string {
		return []string{"--server", f.Relays[plain].URL(), "sub", "--stream", bus.StreamChanges, "--durable", durable, "--subjects-only"}
	}, func(s *subscriber, line string) error {
		position, ok, err := natsPosition(line)
		if ok && position > s.Last() {
			s.add(position)
		}
		return err
	})
	f.Find(plain).mortal = true
	return s, nil
}

// natsPosition reads a line of the tool; ok is false where it is not about a message:
//
//	[#1] Received JetStream message: stream: CHANGES seq: 1,764 / pending: 0 / subject: ...
func natsPosition(line string) (position uint64, ok bool, err error) {
	_, rest, ok := strings.Cut(line, "Received JetStream message: stream: "+bus.StreamChanges+" seq: ")
	if !ok {
		return 0, false, nil
	}
	number, _, _ := strings.Cut(rest, " ")
	position, err = strconv.ParseUint(strings.ReplaceAll(number, ",", ""), 10, 64)
	return position, err == nil, err
}

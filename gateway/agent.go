package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
)

// HAProxy's agent-check: a TCP connection, perhaps a line that says what is
// asked for, one line as the answer. Each answer is the complete state: HAProxy
// keeps what an answer does not mention.

// Limits of the agent-check listener.
const (
	agentConns  = 1024                   // connections at the same time; others wait in the kernel
	agentWait   = 50 * time.Millisecond  // for the line, which HAProxy sends at once where agent-send is set
	agentLine   = 1024                   // bytes of the line
	agentWrite  = time.Second            // to take the answer
	agentLinger = 250 * time.Millisecond // for the other side to close
	agentReason = 120                    // bytes of the text after #
)

// serveAgent answers agent checks on the listener, which it closes, until ctx ends.
func (s *Server) serveAgent(ctx context.Context, ln net.Listener) error {
	return serveConns(ctx, ln, agentConns, s.answerAgent)
}

// serveConns runs serve for each connection, of which there are at most so many,
// until ctx ends. It closes the listener and the connections.
func serveConns(ctx context.Context, ln net.Listener, most int, serve func(net.Conn)) error {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	places := make(chan struct{}, most)
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		places <- struct{}{}
		c, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close() // it has asked nothing yet
			}
			return nil
		case err != nil && !fleeting(err):
			return fmt.Errorf("listen on %s: %w", ln.Addr(), err)
		case err != nil:
			<-places
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(agentWait):
			}
			continue
		}
		conns.Go(func() {
			defer func() { <-places }()
			defer c.Close()
			serve(c)
		})
	}
}

// fleeting reports whether an error of Accept is about a connection, or about there
// being too many, and not about the listener, such as one whose port is taken.
func fleeting(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "accept" && !errors.Is(err, net.ErrClosed)
}

// answerAgent reads the line, if there is one, and answers with one.
func (s *Server) answerAgent(c net.Conn) {
	now := time.Now()
	_ = c.SetReadDeadline(now.Add(agentWait)) // a connection that has no deadline is closed already
	line := readAgentLine(c)
	_ = c.SetWriteDeadline(time.Now().Add(agentWrite))
	if _, err := io.WriteString(c, s.agentAnswer(line, time.Now())+"\n"); err != nil {
		return
	}
	// To close with something unread would have the kernel throw the answer away.
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = c.SetReadDeadline(time.Now().Add(agentLinger))
		_, _ = io.CopyN(io.Discard, c, agentLine)
	}
}

// readAgentLine reads up to the first line end, the deadline, or one byte more
// than a line may have.
func readAgentLine(r io.Reader) string {
	buf := make([]byte, agentLine+1)
	n := 0
	for n < len(buf) {
		more, err := r.Read(buf[n:])
		n += more
		if i := strings.IndexAny(string(buf[:n]), "\r\n"); i >= 0 {
			return string(buf[:i])
		}
		if err != nil {
			break
		}
	}
	return string(buf[:n])
}

// agentAnswer is the answer on a line, without its end. A line that cannot be
// understood is answered with fail: the load balancer's log then says why.
func (s *Server) agentAnswer(line string, now time.Time) string {
	host, check, p, err := parseAgentLine(line, s.local)
	if err != nil {
		_, detail := codeOf(err)
		return agentText("fail", detail)
	}
	seen, ok := s.sight(host, check, now)
	if !ok {
		_, detail := codeOf(missing(host, check))
		return agentText("fail", detail)
	}
	return p.agent(&seen, now)
}

// agent is the state of a server in the words of agent-check.
func (p policy) agent(seen *sight, now time.Time) string {
	switch p.decide(seen, now) {
	case passes:
		return "up ready 100%"
	case degraded:
		return fmt.Sprintf("up ready %d%%", p.weight())
	case drains:
		if p.soft {
			return "up drain"
		}
		return "maint"
	}
	reason := seen.message
	if phase := seen.phaseAt(now); phase != events.Live {
		reason = string(phase) + ": " + reason
	}
	return agentText("ready down", reason)
}

// agentText puts a reason last, in what HAProxy takes: ASCII, without #.
func agentText(words, reason string) string {
	reason = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '#' {
			return ' '
		}
		return r
	}, reason)
	return words + " #" + strings.TrimSpace(events.Cut(strings.TrimSpace(reason), agentReason))
}

// parseAgentLine reads "host[/check][?policy]"; an empty line, or only a policy,
// is about the local host. The id of a check is written as it is, and may hold
// slashes, or be escaped as in a URL.
func parseAgentLine(line, local string) (host, check string, p policy, err error) {
	if len(line) > agentLine {
		return "", "", p, refuse(http.StatusBadRequest, "the line has more than %d bytes", agentLine)
	}
	target, query, _ := strings.Cut(strings.TrimSpace(line), "?")
	if p, err = parsePolicy(query); err != nil {
		return "", "", policy{}, err
	}
	if target == "" {
		if local == "" {
			return "", "", policy{}, refuse(http.StatusBadRequest, "this gateway has no local host: set agent-send to HOST")
		}
		return local, "", p, nil
	}
	if host, check, err = parseTarget(target); err != nil {
		return "", "", policy{}, err
	}
	return host, check, p, nil
}

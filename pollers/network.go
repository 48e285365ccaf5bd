package pollers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
)

// network is how checks reach what they look at. Whatever is dialled goes
// through its dialer, which sees the address that a name has become.
type network struct {
	guard   guard
	dialer  *net.Dialer
	secrets secrets
	agent   string // what checks call themselves
}

func newNetwork(version string, g guard, credentials string) network {
	return network{
		guard:   g,
		dialer:  &net.Dialer{Timeout: dialTimeout, Control: g.control},
		secrets: secrets{credentials},
		agent:   "megaphone/" + version,
	}
}

// closeAfter closes a connection when ctx ends, so that whoever waits for it
// returns, unless stop was called before.
func closeAfter(ctx context.Context, conn io.Closer) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = conn.Close() }) // it is given up
}

// optioned makes a check of a kind from what it does with its options.
func optioned(f func(context.Context, events.Target, events.Options) Finding) Check {
	return func(ctx context.Context, t events.Target) Finding {
		o, err := t.ParseOptions()
		if err != nil {
			return failed(t, err)
		}
		return f(ctx, t, o)
	}
}

// found is the finding of t: its status, and what was seen as a document.
func found(t events.Target, s events.Status, message string, seen any) Finding {
	r := finish(t, Reading{Status: s, Message: message})
	if doc, err := json.Marshal(seen); err == nil && len(doc) <= events.MaxDocument {
		r.Document = doc
	}
	return Finding{Reading: r}
}

// verdict collects what is wrong: the worst status, and all that has it to say.
// The zero value is OK.
type verdict struct {
	worst events.Status
	texts []string
}

// status is OK where nothing was said.
func (v verdict) status() events.Status {
	if len(v.texts) == 0 {
		return events.OK
	}
	return v.worst
}

func (v *verdict) say(s events.Status, format string, args ...any) {
	v.worst = events.Worse(v.status(), s)
	v.texts = append(v.texts, fmt.Sprintf(format, args...))
}

// message is what was said, or text where nothing was.
func (v verdict) message(text string) string {
	if len(v.texts) == 0 {
		return text
	}
	return strings.Join(v.texts, "; ")
}

// plainly says what went wrong for a person: without the layers of libraries,
// and what ended a poll in words.
func plainly(ctx context.Context, what string, err error) error {
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.Is(err, errDenied):
		return fmt.Errorf("%s: %w", what, deepest(err))
	case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s: no answer in time", what)
	case errors.As(err, &dns):
		return fmt.Errorf("%s: %s: %s", what, dns.Name, dns.Err)
	case errors.As(err, &op):
		return fmt.Errorf("%s: %w", what, op.Err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// deepest returns the error that wraps errDenied most closely.
func deepest(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil || next == errDenied { //nolint:errorlint // the very one
			return err
		}
		err = next
	}
}

// tcp checks that something accepts connections, and what it says.
func (n network) tcp(ctx context.Context, t events.Target, o events.Options) Finding {
	u, err := url.Parse(t.Addr)
	if err != nil {
		return failed(t, fmt.Errorf("%q is not an address", t.Addr))
	}
	conn, err := n.dialer.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return failed(t, plainly(ctx, "connect to "+u.Host, err))
	}
	defer conn.Close()
	said, err := talk(ctx, conn, o)
	if err != nil {
		return failed(t, plainly(ctx, u.Host, err))
	}
	return found(t, events.OK, u.Host+" accepts connections", peer{Address: conn.RemoteAddr().String(), Said: said})
}

// peer is the document of tcp and tls.
type peer struct {
	Address     string       `json:"address"`
	Said        string       `json:"said,omitempty"`
	Certificate *certificate `json:"certificate,omitempty"`
}

// maxSaid bounds what is read of an answer on a bare connection.
const maxSaid = 16 << 10

// talk sends the body and reads until the answer matches. It returns the answer.
func talk(ctx context.Context, conn net.Conn, o events.Options) (said string, err error) {
	pattern, err := events.Pattern(o.ExpectBody)
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // only fails once closed
	defer stop()
	if o.Body != "" {
		if _, err := io.WriteString(conn, o.Body); err != nil {
			return "", fmt.Errorf("send: %w", err)
		}
	}
	if pattern == nil {
		return "", nil
	}
	return readUntil(conn, pattern)
}

func readUntil(conn io.Reader, pattern *regexp.Regexp) (string, error) {
	var got []byte
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		switch {
		case n > 0 && pattern.Match(got):
			return strings.ToValidUTF8(string(got), "\uFFFD"), nil
		case err == nil && len(got) < maxSaid:
			continue
		case err == nil, errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
			return "", fmt.Errorf("its answer %q does not match %q", events.Cut(string(got), 200), pattern)
		}
		return "", fmt.Errorf("read its answer: %w", err)
	}
}

package pollers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// Bounds of what a NATS server elsewhere may send, in bytes. The client library
// makes room for what a server announces before any of it has come, and dies where
// that is more than there is; lines it collects without end.
const (
	maxNATSLine    = 32 << 10
	maxNATSMessage = 8 << 20 // the most that NATS recommends as a server's max_payload
)

// natsDialer connects to a NATS server that nobody vouches for. Its dials, and
// connections, end with a poll. It does the client's handshake of TLS, to see what
// the server says inside of it.
type natsDialer struct {
	ctx    context.Context
	dialer *net.Dialer
	conf   *tls.Config // nil: TLS where the server wants it
	host   string      // that its certificate has to bear, where conf does not say
}

// SkipTLSHandshake tells the client that Dial has done it.
func (natsDialer) SkipTLSHandshake() bool { return true }

// Dial is for nats.CustomDialer.
func (d natsDialer) Dial(network, address string) (net.Conn, error) {
	raw, err := d.dialer.DialContext(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	closeAfter(d.ctx, raw) // the client waits for a greeting until its own deadline
	conn, err := d.greet(raw)
	if err != nil {
		_ = raw.Close() // it is given up
		return nil, err
	}
	return conn, nil
}

// greet reads the server's first line, which says whether TLS follows.
func (d natsDialer) greet(raw net.Conn) (net.Conn, error) {
	in := bufio.NewReaderSize(raw, maxNATSLine)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("read its greeting: %w", err)
	}
	w := &natsWire{Conn: raw, in: in, greeting: bytes.Clone(line)}
	var info struct {
		Required  bool `json:"tls_required"`
		Available bool `json:"tls_available"`
	}
	_, text, _ := bytes.Cut(line, []byte(" "))
	_ = json.Unmarshal(text, &info) // the client says what is wrong with it
	switch {
	case !info.Required && d.conf == nil:
		return w, nil
	case !info.Required && !info.Available:
		return nil, nats.ErrSecureConnWanted
	case in.Buffered() > 0:
		return nil, errors.New("it said more than its greeting before TLS")
	}
	conf := &tls.Config{}
	if d.conf != nil {
		conf = d.conf.Clone()
	}
	if conf.ServerName == "" {
		conf.ServerName = d.host
	}
	secure := tls.Client(raw, conf)
	if err := secure.HandshakeContext(d.ctx); err != nil {
		return nil, err
	}
	w.Conn, w.in = secure, bufio.NewReaderSize(secure, maxNATSLine)
	return w, nil
}

// natsWire is a connection to a NATS server that ends where the server goes beyond
// the bounds.
type natsWire struct {
	net.Conn
	in       *bufio.Reader
	greeting []byte // is still to be read
	bounds   natsBounds
}

// Read is for the client.
func (w *natsWire) Read(p []byte) (int, error) {
	if len(w.greeting) > 0 {
		n := copy(p, w.greeting)
		w.greeting = w.greeting[n:]
		return n, nil
	}
	n, err := w.in.Read(p)
	if bad := w.bounds.see(p[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

// natsBounds follows what a server sends as the client's parser does.
type natsBounds struct {
	line []byte // that has begun
	skip int    // bytes of a message that are to come, and one more
	tail bool   // what comes, up to the end of its line, is the end of a message
}

func (b *natsBounds) see(p []byte) error {
	for len(p) > 0 {
		if b.skip > 0 {
			n := min(b.skip, len(p))
			b.skip, p = b.skip-n, p[n:]
			continue
		}
		part, rest, whole := bytes.Cut(p, []byte("\n"))
		p = rest
		switch {
		case b.tail:
			b.tail = !whole
			continue
		case len(b.line)+len(part) > maxNATSLine:
			return fmt.Errorf("the server sent a line of more than %d bytes", maxNATSLine)
		}
		if b.line = append(b.line, part...); !whole {
			return nil
		}
		size, message, err := natsMessage(string(b.line))
		if err != nil {
			return err
		}
		if message {
			b.skip, b.tail = size+1, true
		}
		b.line = b.line[:0]
	}
	return nil
}

// natsMessage returns how many bytes follow a line that announces a message.
func natsMessage(line string) (size int, message bool, err error) {
	line = strings.TrimSuffix(line, "\r")
	fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(fields) == 0 || !strings.EqualFold(fields[0], "MSG") && !strings.EqualFold(fields[0], "HMSG") {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(fields[len(fields)-1], 10, 31)
	if err != nil || n > maxNATSMessage || strings.Contains(line, "\r") {
		return 0, true, fmt.Errorf("the server announced a message that is larger than %d bytes, or not well formed: %.100q", maxNATSMessage, line)
	}
	return int(n), true, nil
}

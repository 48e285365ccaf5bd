package pollers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// natsSeen is the document of an answer that is no status document.
type natsSeen struct {
	Subject string `json:"subject"`
	Answers int    `json:"answers"`
	Answer  string `json:"answer,omitempty"` // the first, its beginning
	Service string `json:"service,omitempty"`
	Version string `json:"version,omitempty"`
}

// maxShown is how much of an answer that is no document is kept, in bytes.
const maxShown = 4 << 10

// natsKind sends a request: nats://host:port/subject on a connection of its own,
// nats:///subject on that of the worker.
type natsKind struct {
	network
	own *nats.Conn // nil where a worker has none
}

func (n natsKind) check(ctx context.Context, t events.Target, o events.Options) Finding {
	u, err := url.Parse(t.Addr)
	if err != nil {
		return failed(t, fmt.Errorf("%q is not an address", t.Addr))
	}
	subject := strings.TrimPrefix(u.Path, "/")
	if err := events.RequestSubject(subject, u.Host == ""); err != nil { // not all registrations were looked at strictly
		return failed(t, err)
	}
	conn, done, err := n.connect(ctx, u, o)
	if err != nil {
		return failed(t, plainly(ctx, "connect to "+u.Host, err))
	}
	defer done()
	want := 1
	if o.MinCount != nil {
		want = max(*o.MinCount, 1)
	}
	answers, err := ask(ctx, conn, subject, o.Body, want)
	if err != nil && len(answers) == 0 {
		return failed(t, natsTrouble(subject, err))
	}
	return judgeNATS(t, o, subject, want, answers)
}

// connect returns a connection and what ends its use.
func (n natsKind) connect(ctx context.Context, u *url.URL, o events.Options) (*nats.Conn, func(), error) {
	if u.Host == "" {
		if n.own == nil {
			return nil, nil, errors.New("this worker has no connection")
		}
		return n.own, func() {}, nil
	}
	timeout := DefaultTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	opts := []nats.Option{
		nats.Name(n.agent), nats.NoReconnect(), nats.Timeout(timeout), nats.SetCustomDialer(bound{ctx, n.dialer}),
		nats.IgnoreDiscoveredServers(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // the default writes to stderr
	}
	if o.CA != "" || o.ClientCert != "" {
		conf, err := n.secrets.tlsConfig(nil, o)
		if err != nil {
			return nil, nil, err
		}
		opts = append(opts, nats.Secure(conf))
	}
	if o.Credentials != "" {
		c, err := n.secrets.credentials(o.Credentials, u)
		if err != nil {
			return nil, nil, err
		}
		opts = append(opts, c.nats())
	}
	conn, err := nats.Connect("nats://"+u.Host, opts...)
	if err != nil {
		return nil, nil, err
	}
	return conn, conn.Close, nil
}

func (c credentials) nats() nats.Option {
	if c.Bearer != "" {
		return nats.Token(c.Bearer)
	}
	return nats.UserInfo(c.Username, c.Password)
}

// bound is a dialer whose dials, and connections, end with a poll.
type bound struct {
	ctx    context.Context
	dialer *net.Dialer
}

// Dial is for nats.CustomDialer.
func (b bound) Dial(network, address string) (net.Conn, error) {
	conn, err := b.dialer.DialContext(b.ctx, network, address)
	if err == nil {
		closeAfter(b.ctx, conn) // the client waits for a greeting until its own deadline
	}
	return conn, err
}

// ask sends one request and waits for that many answers.
func ask(ctx context.Context, conn *nats.Conn, subject, body string, want int) (answers []*nats.Msg, err error) {
	inbox := conn.NewInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // only fails where the connection is gone
	if err := conn.PublishRequest(subject, inbox, []byte(body)); err != nil {
		return nil, err
	}
	for len(answers) < want {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return answers, err
		}
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
			return nil, nats.ErrNoResponders
		}
		answers = append(answers, m)
	}
	return answers, nil
}

func natsTrouble(subject string, err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("nobody answers on %s", subject)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer on %s in time", subject)
	}
	return fmt.Errorf("ask on %s: %w", subject, err)
}

func judgeNATS(t events.Target, o events.Options, subject string, want int, answers []*nats.Msg) Finding {
	pattern, err := events.Pattern(o.ExpectBody)
	if err != nil {
		return failed(t, err)
	}
	first := answers[0]
	body := first.Data[:min(len(first.Data), events.MaxDocument+1)]
	var v verdict
	if len(answers) < want {
		v.say(events.Critical, "%d of at least %d answer on %s", len(answers), want, subject)
	}
	if text := first.Header.Get(micro.ErrorHeader); text != "" {
		v.say(events.Critical, "answer on %s: error %s: %s", subject, first.Header.Get(micro.ErrorCodeHeader), text)
	}
	if pattern != nil && !pattern.Match(body) {
		v.say(events.Critical, "the answer on %s does not match %q", subject, o.ExpectBody)
	}
	if doc, ok := clean(body); ok && (isOriginal(doc) || t.JSONPath != "") && len(doc) <= events.MaxDocument {
		r := Read(t, body)
		if len(v.texts) > 0 && r.Status != events.OK {
			v.say(r.Status, "%s", r.Message)
		}
		r.Status, r.Message = events.Worse(v.status(), r.Status), v.message(r.Message)
		return Finding{Reading: finish(t, r)}
	}
	seen := natsSeen{Subject: subject, Answers: len(answers), Answer: strings.ToValidUTF8(string(body[:min(len(body), maxShown)]), "\uFFFD")}
	var ping micro.Ping
	text := fmt.Sprintf("%d answer on %s", len(answers), subject)
	if json.Unmarshal(body, &ping) == nil && ping.Type == micro.PingResponseType {
		seen.Service, seen.Version = ping.Name, ping.Version
		text = fmt.Sprintf("%s %s answers on %s", ping.Name, ping.Version, subject)
	}
	return found(t, v.status(), v.message(text), seen)
}

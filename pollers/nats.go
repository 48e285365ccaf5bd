package pollers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	first, answers, err := ask(ctx, conn, subject, o.Body, want)
	if errors.Is(err, nats.ErrConnectionClosed) {
		err = cmp.Or(conn.LastError(), err) // says why
	}
	if first == nil {
		return failed(t, natsTrouble(subject, err))
	}
	return judgeNATS(t, o, subject, want, first, answers)
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
	dialer := &natsDialer{ctx: ctx, dialer: n.dialer, host: u.Hostname()}
	opts := []nats.Option{
		nats.Name(n.agent), nats.NoReconnect(), nats.Timeout(timeout), nats.SetCustomDialer(dialer),
		nats.SkipHostLookup(),                                                                             // the dialer does, and ends with the poll
		nats.IgnoreDiscoveredServers(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // the default writes to stderr
	}
	if o.CA != "" || o.ClientCert != "" {
		conf, err := n.secrets.tlsConfig(nil, o)
		if err != nil {
			return nil, nil, err
		}
		dialer.conf = conf
		opts = append(opts, nats.Secure(conf)) // it refuses a server without TLS
	}
	if o.Credentials != "" {
		c, err := n.secrets.credentials(o.Credentials, u, "")
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

// ask sends one request and waits for that many answers, of which it keeps the
// first: nobody bounds how many are wanted. It is nil where none came.
func ask(ctx context.Context, conn *nats.Conn, subject, body string, want int) (first *nats.Msg, answers int, err error) {
	inbox := conn.NewInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err != nil {
		return nil, 0, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // only fails where the connection is gone
	if err := conn.PublishRequest(subject, inbox, []byte(body)); err != nil {
		return nil, 0, err
	}
	for answers < want {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return first, answers, err
		}
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
			return nil, 0, nats.ErrNoResponders
		}
		first, answers = cmp.Or(first, m), answers+1
	}
	return first, answers, nil
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

func judgeNATS(t events.Target, o events.Options, subject string, want int, first *nats.Msg, answers int) Finding {
	pattern, err := events.Pattern(o.ExpectBody)
	if err != nil {
		return failed(t, err)
	}
	body := first.Data[:min(len(first.Data), events.MaxDocument+1)]
	var v verdict
	if answers < want {
		v.say(events.Critical, "%d of at least %d answer on %s", answers, want, subject)
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
	seen := natsSeen{Subject: subject, Answers: answers, Answer: strings.ToValidUTF8(string(body[:min(len(body), maxShown)]), "\uFFFD")}
	var ping micro.Ping
	text := fmt.Sprintf("%d answer on %s", answers, subject)
	if json.Unmarshal(body, &ping) == nil && ping.Type == micro.PingResponseType {
		seen.Service, seen.Version = ping.Name, ping.Version
		text = fmt.Sprintf("%s %s answers on %s", ping.Name, ping.Version, subject)
	}
	return found(t, v.status(), v.message(text), seen)
}

package bus

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// RoleInbox keeps the answers to Megaphone's own processes apart from those that
// a client without credentials may listen to: the prefix of their connections'
// inboxes.
const RoleInbox = "_INBOXR"

// Conn is a connection to the bus. It is safe for concurrent use.
type Conn struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	own    bool // Close closes nc
	name   string
	log    *slog.Logger
	reject rejections
}

type options struct {
	log   *slog.Logger
	name  string
	creds string
	nats  []nats.Option
}

// Option changes how a [Conn] is made.
type Option func(*options)

// WithLogger gives the logger for what cannot be returned, such as a lost
// connection. The default discards.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.log = l } }

// WithName names the client. The source of its events is
// urn:megaphone:client:<name>; the default name is unique to the connection.
func WithName(name string) Option { return func(o *options) { o.name = name } }

// WithCreds reads user and password of Megaphone's own processes from a file, as
// `serve` writes it into its data directory. [Connect] only.
func WithCreds(file string) Option { return func(o *options) { o.creds = file } }

// WithNATS adds options of the NATS client, such as TLS. [Connect] only.
func WithNATS(opts ...nats.Option) Option {
	return func(o *options) { o.nats = append(o.nats, opts...) }
}

// Connect connects to a NATS server. The connection is kept up for ever: it
// reconnects by itself with pauses of at most a second. Close it.
func Connect(ctx context.Context, url string, opts ...Option) (*Conn, error) {
	o := gather(opts)
	nopts := []nats.Option{
		nats.Name("megaphone " + o.name), nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 250*time.Millisecond), nats.Timeout(timeLeft(ctx, 5*time.Second)),
	}
	if o.creds != "" {
		user, password, err := ReadCreds(o.creds)
		if err != nil {
			return nil, err
		}
		nopts = append(nopts, nats.UserInfo(user, password), nats.CustomInboxPrefix(RoleInbox))
	}
	nopts = append(nopts, logEvents(o.log)...)
	nc, err := nats.Connect(url, append(nopts, o.nats...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to the bus at %s: %w", url, err)
	}
	c, err := newConn(nc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c.own = true
	return c, nil
}

// New uses the caller's own connection, which Close leaves open.
func New(nc *nats.Conn, opts ...Option) (*Conn, error) { return newConn(nc, gather(opts)) }

func newConn(nc *nats.Conn, o options) (*Conn, error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return &Conn{nc: nc, js: js, name: o.name, log: o.log}, nil
}

func gather(opts []Option) options {
	o := options{log: slog.New(slog.DiscardHandler)}
	for _, f := range opts {
		f(&o)
	}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	if o.name == "" {
		o.name = nuid.Next()
	}
	return o
}

func timeLeft(ctx context.Context, most time.Duration) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return max(min(time.Until(end), most), time.Millisecond)
	}
	return most
}

func logEvents(log *slog.Logger) []nats.Option {
	return []nats.Option{
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if err != nil && !nc.IsClosed() {
				log.Warn("bus connection lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("bus connection is back", "url", nc.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Warn("bus", "subject", subject, "error", err)
		}),
	}
}

// ReadCreds reads a credentials file of `serve`: one line user:password.
func ReadCreds(file string) (user, password string, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", "", fmt.Errorf("read the bus credentials: %w", err)
	}
	user, password, ok := strings.Cut(string(bytes.TrimSpace(b)), ":")
	if !ok || user == "" || password == "" {
		return "", "", fmt.Errorf("read the bus credentials: %s must hold one line user:password", file)
	}
	return user, password, nil
}

// NATS returns the connection below.
func (c *Conn) NATS() *nats.Conn { return c.nc }

// JetStream returns the JetStream context of the connection.
func (c *Conn) JetStream() jetstream.JetStream { return c.js }

// Name returns the client's name.
func (c *Conn) Name() string { return c.name }

// source is the CloudEvents source of what this client says.
func (c *Conn) source() string { return "urn:megaphone:client:" + urnPart(c.name) }

// urnPart makes a name fit for a URN.
func urnPart(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._", r) {
			return r
		}
		return '-'
	}, name)
}

// Close flushes and closes the connection, if [Connect] made it.
func (c *Conn) Close() error {
	if c.own && !c.nc.IsClosed() {
		// What is buffered goes out; a bus that is away is no reason to wait.
		if err := c.nc.FlushTimeout(time.Second); err != nil {
			c.log.Debug("flush at close", "error", err)
		}
		c.nc.Close()
	}
	return nil
}

// rejections counts refused events per subject, so that one a second is told.
type rejections struct {
	mu    sync.Mutex
	last  map[string]*rejected
	began time.Time // of the second in which told were told
	told  int
}

type rejected struct {
	told time.Time
	more uint64
}

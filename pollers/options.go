package pollers

import (
	"crypto/tls"
	"log/slog"
	"net/netip"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
)

// Defaults of [Config].
const (
	DefaultInterval    = 10 * time.Second
	DefaultTimeout     = 10 * time.Second
	MaxTimeout         = 5 * time.Minute // of what is polled over the network, whatever its registration says
	DefaultConcurrency = 256
	DefaultPerHost     = 32
)

// slowShare is how many slow polls there may be at once, for each quick one.
const slowShare = 4

// Config is what a [Worker] needs. Conn, Registry, Name and Holder are required.
type Config struct {
	Conn     *bus.Conn     // of the role user; stays open
	Registry *bus.Registry // somebody else runs it
	Name     string        // unique among running workers; in every result
	Holder   string        // of leases; the same after a restart

	Pool        string         // which checks to share with other workers; "" means events.DefaultPool
	Host        string         // the local host, whose own checks are polled too; "" for none
	Interval    time.Duration  // between two polls of a check that does not say; 0 means DefaultInterval
	Timeout     time.Duration  // of one poll, its answer's body included; 0 means DefaultTimeout
	Concurrency int            // polls at once that take less than a second, and four times as many that take longer; 0 means DefaultConcurrency
	PerHost     int            // polls at once of one host, half of them of one port; 0 means DefaultPerHost
	Version     string         // told to what is polled
	TLS         *tls.Config    // of polls over https; nil means the defaults
	Networks    []netip.Prefix // the only ones to poll over the network; nil means all but metadata addresses
	Deny        []netip.Prefix // never polled, even in Networks
	SelfCheck   bool           // keep the built-in check SelfCheck of Host
	Canaries    []string       // addresses that answer unless the worker's own network is broken; nil for none
	Credentials string         // directory of what registrations name as credentials, ca and client_cert; "" for none
	// Local returns what this process's own files register as a check. Checks of
	// local kinds are looked at only if it knows them just as the bus does: anyone
	// could have put them there. It must be safe for concurrent use; nil for none.
	Local func(host, check string) (events.Registration, bool)
	// Discovery is run while the worker polls the checks of Host; nil for none. It
	// has the same Host.
	Discovery *Discovery
	Kinds     Kinds        // checks of further schemes
	Logger    *slog.Logger // nil discards
}

func (c Config) withDefaults() Config {
	if c.Pool == "" {
		c.Pool = events.DefaultPool
	}
	if c.Interval <= 0 {
		c.Interval = DefaultInterval
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Concurrency <= 0 {
		c.Concurrency = DefaultConcurrency
	}
	if c.PerHost <= 0 {
		c.PerHost = DefaultPerHost
	}
	if c.Version == "" {
		c.Version = "devel"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) limits() limits {
	return limits{quick: c.Concurrency, slow: slowShare * c.Concurrency, perHost: c.PerHost, perPort: (c.PerHost + 1) / 2}
}

// connection is that of the worker; nil for none.
func (c Config) connection() *nats.Conn {
	if c.Conn == nil {
		return nil
	}
	return c.Conn.NATS()
}

// pools are those that the worker serves.
func (c Config) pools() []string {
	own := "@" + c.Host
	if c.Host == "" || own == c.Pool {
		return []string{c.Pool}
	}
	return []string{c.Pool, own}
}

// discovery is what is run beside the polls of a pool; nil for none.
func (c Config) discovery(pool string) *Discovery {
	if c.Host == "" || pool != "@"+c.Host {
		return nil
	}
	return c.Discovery
}

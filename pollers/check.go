package pollers

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/url"
	"strings"

	"github.com/looprock/megaphone/events"
)

// Check looks once at what t names. It returns soon after ctx ends, and a
// Finding in any case. It must be safe for concurrent use.
type Check func(ctx context.Context, t events.Target) Finding

// Finding is what a check found.
type Finding struct {
	Reading
	Err error // why nothing was found out; for the log, the reading says it already
}

var errNoDocument = errors.New("no status document")

func missing(t events.Target, err error) Finding { return Finding{Missing(t), err} }

// failed is the finding of t where nothing could be found out, with the reason as
// its message: for what the original did not have.
func failed(t events.Target, err error) Finding {
	return Finding{finish(t, critical(err.Error())), err}
}

// Kinds holds the check of each scheme of an address, in lower case.
type Kinds map[string]Check

// Check runs the check that the address asks for.
func (k Kinds) Check(ctx context.Context, t events.Target) Finding {
	check := k[events.Scheme(t.Addr)]
	if check == nil {
		return missing(t, fmt.Errorf("%q has no scheme that can be polled", t.Addr))
	}
	return check(ctx, t)
}

// kinds are the checks that need nothing of their worker but its network.
func (n network) kinds() Kinds {
	hung := &patience{grace: 2 * execGrace}
	return Kinds{
		"tcp":     optioned(n.tcp),
		"tls":     optioned(n.tls),
		"dns":     optioned(n.dns),
		"icmp":    optioned(n.icmp),
		"grpc":    optioned(n.grpc),
		"grpcs":   optioned(n.grpc),
		"exec":    hung.with(optioned(runProgram)),
		"file":    hung.with(optioned(checkFile)),
		"process": hung.with(optioned((&processes{}).check)), // /proc waits for a process whose memory is locked
		"systemd": optioned(checkUnit),
	}
}

// perTarget is how many idle connections are kept of one port: as many as polls
// of it there may be at once by default.
const perTarget = DefaultPerHost / 2

var defaultPorts = map[string]string{"http": "80", "https": "443", "grpcs": "443", "nats": "4222"}

// endpoint is a place that is polled, by which polls at once are limited: a port
// of a host, as its address writes them. Where an address has no host it is the
// address itself, without a port. It holds hashes: the texts would be all over the
// memory, each time that a poll begins. Two places that had the same would share
// their limits.
type endpoint struct {
	host uint64
	port uint64 // also of the host
}

var endpointSeed = maphash.MakeSeed()

func newEndpoint(host, port string) endpoint {
	var h maphash.Hash
	h.SetSeed(endpointSeed)
	var e endpoint
	_, _ = h.WriteString(host) // a write to a hash never fails
	e.host = h.Sum64()
	_, _ = h.WriteString(" " + port) // nor does this one
	e.port = h.Sum64()
	return e
}

func endpointOf(addr string) endpoint {
	if events.Scheme(addr) == "exec" {
		return newEndpoint("exec", "") // programs at once on this machine
	}
	u, err := url.Parse(addr)
	if err != nil || u.Host == "" {
		return newEndpoint(addr, "")
	}
	port := u.Port()
	if port == "" {
		port = defaultPorts[u.Scheme]
	}
	return newEndpoint(strings.ToLower(u.Hostname()), port)
}

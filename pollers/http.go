package pollers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/looprock/megaphone/events"
)

// Bounds of polls over HTTP.
const (
	maxRedirects = 10
	maxHeaders   = 64 << 10 // bytes
	maxIdle      = 1024     // connections kept open between polls, to all targets
	idleTimeout  = 2 * time.Minute
	dialTimeout  = 30 * time.Second // a dial may outlive the poll that began it
)

// HTTP polls status documents over HTTP and HTTPS. Connections are kept open and
// used again. It is safe for concurrent use.
type HTTP struct {
	client    *http.Client
	transport *http.Transport
	once      *http.Transport // keeps no connections
	conf      *tls.Config
	own       transports
	direct    direct
	net       network
}

// NewHTTP returns an HTTP that calls itself megaphone/<version>. conf is for
// https; nil means the defaults and the system's certificates. Only addresses in
// networks are connected to; nil means all but metadata addresses.
func NewHTTP(version string, conf *tls.Config, networks []netip.Prefix) *HTTP {
	return newHTTP(newNetwork(version, guard{allow: networks}, ""), conf)
}

func newHTTP(n network, conf *tls.Config) *HTTP {
	transport, once := newTransport(n, conf), newTransport(n, conf)
	once.DisableKeepAlives = true
	return &HTTP{
		client:    &http.Client{Transport: transport, CheckRedirect: checkRedirect},
		transport: transport,
		once:      once,
		conf:      conf,
		direct:    direct{dial: n.dialer.DialContext, agent: n.agent},
		net:       n,
	}
}

func newTransport(n network, conf *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // the environment of a worker is not the services'
		DialContext:            n.dialer.DialContext,
		TLSClientConfig:        conf,
		DisableCompression:     true, // the bound of a document is then one of what is sent, too
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    perTarget,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaders,
	}
}

// Close closes idle connections. It may be called again, and h still be used.
func (h *HTTP) Close() {
	h.direct.close()
	h.transport.CloseIdleConnections()
	h.own.mu.Lock()
	defer h.own.mu.Unlock()
	h.own.close()
}

// Check is a [Check] of http and https addresses. Without options it is the
// original's: only a 2xx answer is read, unless it is in another dialect that
// belongs to an error.
func (h *HTTP) Check(ctx context.Context, t events.Target) Finding {
	if t.Options != "" {
		return optioned(h.with)(ctx, t)
	}
	u, err := url.Parse(t.Addr)
	if err != nil {
		return missing(t, fmt.Errorf("poll: %w", err))
	}
	resp, body, err := h.direct.get(ctx, u)
	if errors.Is(err, errNotPlain) {
		resp, body, err = h.get(ctx, t.Addr)
	}
	if err != nil {
		return missing(t, fmt.Errorf("poll %s: %w", t.Addr, urlCause(err)))
	}
	var f Finding
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		f.Reading = Read(t, body)
		if f.Document == nil {
			f.Err = errNoDocument
		}
	} else {
		f = missing(t, fmt.Errorf("poll %s: answered %s", t.Addr, resp.Status))
	}
	if f.Status == events.OK || t.JSONPath != "" {
		return f
	}
	if r, ok := recognise(answer{resp.Header.Get("Content-Type"), body}, ""); ok {
		return inDialect(t, r, resp)
	}
	return f
}

// inDialect is the finding of a document in another dialect; what is answered
// with an error is Critical, whatever the document says.
func inDialect(t events.Target, r Reading, resp *http.Response) Finding {
	if resp.StatusCode > 299 && r.Status != events.Critical {
		r.Status, r.Message = events.Critical, "answered "+resp.Status+"; "+r.Message
	}
	return Finding{Reading: finish(t, r)}
}

// get is direct.get of any URL.
func (h *HTTP) get(ctx context.Context, addr string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addr, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("User-Agent", h.net.agent)
	return fetch(h.client, req)
}

// fetch returns an answer and its body, of a too large one the first
// events.MaxDocument + 1 bytes.
func fetch(client *http.Client, req *http.Request) (*http.Response, []byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	// Also what is not used is read, so that the connection can be used again.
	body, err := io.ReadAll(io.LimitReader(resp.Body, events.MaxDocument+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read answer: %w", err)
	}
	return resp, body, nil
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if s := req.URL.Scheme; s != "http" && s != "https" {
		return fmt.Errorf("redirected to scheme %q", s)
	}
	return nil
}

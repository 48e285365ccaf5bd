package pollers

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
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
	net       network
}

// NewHTTP returns an HTTP that calls itself megaphone/<version>. conf is for
// https; nil means the defaults and the system's certificates. Only addresses in
// networks are connected to; nil means all but link-local ones.
func NewHTTP(version string, conf *tls.Config, networks []netip.Prefix) *HTTP {
	return newHTTP(newNetwork(version, guard{allow: networks}, ""), conf)
}

func newHTTP(n network, conf *tls.Config) *HTTP {
	transport := &http.Transport{
		Proxy:                  nil, // the environment of a worker is not the services'
		DialContext:            n.dialer.DialContext,
		TLSClientConfig:        conf,
		DisableCompression:     true, // the bound of a document is then one of what is sent, too
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    perTarget,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaders,
	}
	return &HTTP{
		client:    &http.Client{Transport: transport, CheckRedirect: checkRedirect},
		transport: transport,
		net:       n,
	}
}

// Close closes idle connections. It may be called again, and h still be used.
func (h *HTTP) Close() { h.transport.CloseIdleConnections() }

// Check is a [Check] of http and https addresses. Only a 2xx answer is read.
func (h *HTTP) Check(ctx context.Context, t events.Target) Finding {
	body, err := h.fetch(ctx, t.Addr)
	if err != nil {
		return missing(t, err)
	}
	f := Finding{Reading: Read(t, body)}
	if f.Document == nil {
		f.Err = errNoDocument
	}
	return f
}

// fetch returns the body of a 2xx answer, of a too large one its first
// events.MaxDocument + 1 bytes.
func (h *HTTP) fetch(ctx context.Context, addr string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addr, nil)
	if err != nil {
		return nil, fmt.Errorf("poll: %w", err)
	}
	req.Header.Set("User-Agent", h.net.agent)
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("poll: %w", err)
	}
	defer resp.Body.Close()
	// Also what is not used is read, so that the connection can be used again.
	body, err := io.ReadAll(io.LimitReader(resp.Body, events.MaxDocument+1))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, fmt.Errorf("poll %s: answered %s", addr, resp.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("poll %s: read answer: %w", addr, err)
	}
	return body, nil
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

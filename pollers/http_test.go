package pollers_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
)

func newHTTP(tb testing.TB, conf *tls.Config) *pollers.HTTP {
	h := pollers.NewHTTP("1.2.3", conf, nil)
	tb.Cleanup(h.Close)
	return h
}

func serve(tb testing.TB, f http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(f)
	tb.Cleanup(s.Close)
	return s
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
}

const okDocument = `{"status": "OK", "message": "fine"}`

func TestHTTPCheck(t *testing.T) {
	big := `{"status": "OK", "message": "` + strings.Repeat("x", 200_000) + `"}`
	for name, tt := range map[string]struct {
		path string
		want string // "URL" stands for the url
		doc  bool
	}{
		"a document":           {"/ok", "OK fine", true},
		"another type, latin1": {"/latin1", "OK caf\uFFFD", true},
		"an error, with OK":    {"/503", "Critical timeout connecting to URL", false},
		"not found":            {"/none", "Critical timeout connecting to URL", false},
		"204":                  {"/204", "Critical timeout connecting to URL", false},
		"no redirect":          {"/304", "Critical timeout connecting to URL", false},
		"ten redirects":        {"/r10", "OK fine", true},
		"eleven redirects":     {"/r11", "Critical timeout connecting to URL", false},
		"a redirect loop":      {"/loop", "Critical timeout connecting to URL", false},
		"redirect to a file":   {"/file", "Critical timeout connecting to URL", false},
		"200 kB":               {"/big", "Critical status document is larger than 65536 bytes", false},
		"without end":          {"/endless", "Critical status document is larger than 65536 bytes", false},
		"slow":                 {"/slow", "Critical timeout connecting to URL", false},
		"a slow body":          {"/trickle", "Critical timeout connecting to URL", false},
		"cut off":              {"/cut", "Critical timeout connecting to URL", false},
		"large headers":        {"/headers", "Critical timeout connecting to URL", false},
		"not HTTP":             {"/hijack", "Critical timeout connecting to URL", false},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			s := serve(t, strange(big))
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if strings.Contains(tt.path, "slow") || tt.path == "/trickle" {
				ctx, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
				defer cancel()
			}
			f := newHTTP(t, nil).Check(ctx, events.Target{Addr: s.URL + tt.path})
			is.Equal(f.Status.String()+" "+f.Message, strings.ReplaceAll(tt.want, "URL", s.URL+tt.path))
			is.Equal(f.Document != nil, tt.doc)
			is.Equal(f.Err == nil, tt.doc)
		})
	}
}

// strange is a service with a path for each way to answer.
func strange(big string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var n int
		switch _, err := fmt.Sscanf(r.URL.Path, "/r%d", &n); {
		case err == nil && n > 1:
			http.Redirect(w, r, fmt.Sprintf("/r%d", n-1), http.StatusFound)
			return
		case err == nil:
			http.Redirect(w, r, "/ok", http.StatusFound)
			return
		}
		switch r.URL.Path {
		case "/ok":
			io.WriteString(w, okDocument)
		case "/latin1":
			w.Header().Set("Content-Type", "text/html; charset=latin1")
			io.WriteString(w, "{\"status\": \"OK\", \"message\": \"caf\xe9\"}")
		case "/503":
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, okDocument)
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.WriteHeader(http.StatusNotModified)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/file":
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		case "/big":
			io.WriteString(w, big)
		case "/endless":
			for {
				if _, err := io.WriteString(w, big); err != nil {
					return
				}
			}
		case "/slow":
			<-r.Context().Done()
		case "/trickle":
			io.WriteString(w, `{"status": "OK"`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/cut":
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, okDocument)
		case "/headers":
			for i := range 200 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1000))
			}
			io.WriteString(w, okDocument)
		case "/hijack":
			c, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(c, "SSH-2.0-OpenSSH\r\n")
			c.Close()
		default:
			http.NotFound(w, r)
		}
	}
}

func TestHTTPUnreachable(t *testing.T) {
	is := is.New(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	refused := "http://" + l.Addr().String() + "/x"
	l.Close()
	kinds := pollers.Kinds{"http": newHTTP(t, nil).Check}
	for _, addr := range []string{
		refused, "localhost:1/x", "gopher://127.0.0.1/", "file:///etc/passwd", "http://", "http://[::1", "http://127.0.0.1:99999/",
		"http://no-such-name.invalid/", "http://a b/", "%", ":",
	} {
		f := kinds.Check(t.Context(), events.Target{Addr: addr})
		is.Equal(f.Reading, pollers.Reading{Status: events.Critical, Message: "timeout connecting to " + addr})
		is.True(f.Err != nil)
	}
}

func TestHTTPReusesConnections(t *testing.T) {
	is := is.New(t)
	var opened atomic.Int64
	s := httptest.NewUnstartedServer(text(okDocument))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	h := newHTTP(t, nil)
	for range 50 {
		is.Equal(h.Check(t.Context(), events.Target{Addr: s.URL}).Status, events.OK)
		is.True(h.Check(t.Context(), events.Target{Addr: s.URL}).Err == nil)
	}
	is.Equal(opened.Load(), int64(1)) // for a hundred polls
}

func TestHTTPSaysWhoAsks(t *testing.T) {
	is := is.New(t)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"status": "OK", "message": %q}`, r.UserAgent())
	})
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // is not looked at
	is.Equal(newHTTP(t, nil).Check(t.Context(), events.Target{Addr: s.URL}).Message, "megaphone/1.2.3")
}

func TestHTTPS(t *testing.T) {
	is := is.New(t)
	s := httptest.NewUnstartedServer(text(okDocument))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains about the client below
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	f := newHTTP(t, &tls.Config{RootCAs: pool}).Check(t.Context(), events.Target{Addr: s.URL})
	is.Equal(f.Message, "fine")
	f = newHTTP(t, nil).Check(t.Context(), events.Target{Addr: s.URL})
	is.Equal(f.Message, "timeout connecting to "+s.URL) // an unknown certificate
}

// Whoever may register a check must not reach a cloud's metadata, by any way.
func TestHTTPDeniesLinkLocal(t *testing.T) {
	is := is.New(t)
	h := newHTTP(t, nil)
	redirect := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
	})
	for _, addr := range []string{
		"http://169.254.169.254/latest/meta-data", "http://[::ffff:169.254.169.254]/", "http://[fe80::1%25lo]:80/", "http://[fe80::1]/",
		"http://[fd00:ec2::254]/", "http://[64:ff9b::a9fe:a9fe]/", redirect.URL,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		f := h.Check(ctx, events.Target{Addr: addr})
		cancel()
		is.Equal(f.Message, "timeout connecting to "+addr)
		is.True(errors.Is(f.Err, pollers.ErrDenied)) // refused, not merely unreachable
	}
	s := serve(t, text(okDocument))
	is.Equal(h.Check(t.Context(), events.Target{Addr: s.URL}).Status, events.OK) // loopback is allowed
}

func TestHTTPNetworks(t *testing.T) {
	is := is.New(t)
	s := serve(t, text(okDocument))
	for network, want := range map[string]events.Status{"127.0.0.0/8": events.OK, "10.0.0.0/8": events.Critical} {
		h := pollers.NewHTTP("1", nil, []netip.Prefix{netip.MustParsePrefix(network)})
		t.Cleanup(h.Close)
		f := h.Check(t.Context(), events.Target{Addr: s.URL})
		is.Equal(f.Status, want)
		is.Equal(errors.Is(f.Err, pollers.ErrDenied), want != events.OK)
	}
}

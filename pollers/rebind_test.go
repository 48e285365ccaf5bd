package pollers

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/miekg/dns"
)

// A name server that changes its mind between two polls gets nowhere: what is
// judged is what is dialled.
func TestRebinding(t *testing.T) {
	is := is.New(t)
	var reached, inner atomic.Int64
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reached.Add(1)
		w.Header().Set("Connection", "close")
		w.Write([]byte(`{"status":"OK","message":"outside"}`))
	}))
	defer outside.Close()
	_, port, _ := net.SplitHostPort(outside.Listener.Addr().String())
	l, err := net.Listen("tcp", "127.0.0.2:"+port) // "inside": on the same port, as rebinding needs it
	if err != nil {
		t.Skip("only one loopback address: ", err)
	}
	inside := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inner.Add(1) }))
	inside.Listener = l
	inside.Start()
	defer inside.Close()

	var answers atomic.Int64
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	is.NoErr(err)
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			ip := "127.0.0.1"
			if answers.Add(1) > 1 {
				ip = "127.0.0.2"
			}
			rr, _ := dns.NewRR(q.Question[0].Name + " 0 IN A " + ip) // a record that is well-formed
			m.Answer = append(m.Answer, rr)
		}
		w.WriteMsg(m)
	})}
	go server.ActivateAndServe()
	defer server.Shutdown()

	n := newNetwork("1", guard{deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}}, "")
	n.dialer.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
	h := newHTTP(n, nil)
	defer h.Close()
	kinds := n.kinds()
	target := events.Target{Addr: "http://rebind.example.com:" + port + "/"}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	first := h.Check(ctx, target)
	is.Equal(first.Message, "outside")
	for range 3 {
		f := h.Check(ctx, target)
		is.True(errors.Is(f.Err, errDenied))
		for _, scheme := range []string{"tcp", "tls", "grpc"} {
			f := kinds.Check(ctx, events.Target{Addr: strings.Replace(target.Addr, "http:", scheme+":", 1)})
			is.True(errors.Is(f.Err, errDenied))
		}
	}
	is.Equal(reached.Load(), int64(1))
	is.Equal(inner.Load(), int64(0))
}

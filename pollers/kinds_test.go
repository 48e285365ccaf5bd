package pollers_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
	"github.com/miekg/dns"
)

// look runs the check of a url as it would be registered from a file.
func look(t testing.TB, url any) pollers.Finding {
	t.Helper()
	return lookAs(t, pollers.Config{}, url)
}

func lookAs(t testing.TB, c pollers.Config, url any) pollers.Finding {
	t.Helper()
	raw, err := json.Marshal(url)
	must(t, err)
	r := events.Registration{ID: "c", Host: "web01", URL: raw, Origin: "file:c.json"}
	must(t, r.ValidateStrict())
	target, err := r.Target()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	kinds, done := pollers.KindsOf(c)
	defer done()
	return kinds.Check(ctx, target)
}

// object is a url that is an object.
type object map[string]any

func says(f pollers.Finding) string { return f.Status.String() + " " + f.Message }

func listen(t testing.TB, serve func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	accept(t, l, serve)
	return l.Addr().String()
}

func accept(t testing.TB, l net.Listener, serve func(net.Conn)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

func TestTCP(t *testing.T) {
	smtp := listen(t, func(c net.Conn) { io.WriteString(c, "220 mail.example.com ESMTP\r\n") })
	echo := listen(t, func(c net.Conn) {
		b := make([]byte, 100)
		n, _ := c.Read(b)
		c.Write(b[:n])
	})
	endless := listen(t, func(c net.Conn) {
		for {
			if _, err := io.WriteString(c, strings.Repeat("x", 1<<10)); err != nil {
				return
			}
		}
	})
	for name, tt := range map[string]struct {
		url  any
		want string
	}{
		"connects":     {"tcp://" + smtp, "OK " + smtp + " accepts connections"},
		"banner":       {object{"addr": "tcp://" + smtp, "expect_body": "^220 .*ESMTP"}, "OK " + smtp + " accepts connections"},
		"wrong banner": {object{"addr": "tcp://" + smtp, "expect_body": "^SSH"}, `Critical ` + smtp + `: its answer "220 mail.example.com ESMTP\r\n" does not match "^SSH"`},
		"sent":         {object{"addr": "tcp://" + echo, "body": "PING\r\n", "expect_body": "PING"}, "OK " + echo + " accepts connections"},
		"endless":      {object{"addr": "tcp://" + endless, "expect_body": "y"}, "does not match"},
		"refused":      {"tcp://127.0.0.1:1", "Critical connect to 127.0.0.1:1: connect: connection refused"},
		"no name":      {"tcp://no-such-name.invalid:1", "Critical connect to no-such-name.invalid:1: no-such-name.invalid: "},
		"metadata":     {"tcp://169.254.169.254:80", "Critical connect to 169.254.169.254:80: address is not polled: 169.254.169.254 is link-local or of a cloud's metadata"},
		"override":     {object{"addr": "tcp://127.0.0.1:1", "statusoverride": "OK"}, "OK NOTICE: statusoverride used!"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := look(t, tt.url)
			t.Log(says(f), string(f.Document))
			is.True(strings.Contains(says(f), tt.want))
		})
	}
}

func TestPollNetworks(t *testing.T) {
	address := listen(t, func(net.Conn) {})
	in := func(s ...string) (list []netip.Prefix) {
		for _, p := range s {
			list = append(list, netip.MustParsePrefix(p))
		}
		return list
	}
	for name, tt := range map[string]struct {
		conf pollers.Config
		addr string
		want string // part of the reason; empty where it is dialled
	}{
		"everything":         {pollers.Config{}, address, ""},
		"allowed":            {pollers.Config{Networks: in("127.0.0.0/8")}, address, ""},
		"not allowed":        {pollers.Config{Networks: in("10.0.0.0/8")}, address, "not in --poll-allow"},
		"denied":             {pollers.Config{Networks: in("127.0.0.0/8"), Deny: in("127.0.0.1/32")}, address, "--poll-deny"},
		"by name":            {pollers.Config{Deny: in("127.0.0.0/8", "::1/128")}, "localhost:1", "--poll-deny"},
		"mapped":             {pollers.Config{Deny: in("127.0.0.0/8")}, "[::ffff:127.0.0.1]:1", "--poll-deny"},
		"metadata":           {pollers.Config{}, "169.254.169.254:80", "metadata"},
		"in a wide network":  {pollers.Config{Networks: in("0.0.0.0/0")}, "169.254.169.254:80", "metadata"},
		"metadata, octal":    {pollers.Config{}, "[::ffff:a9fe:a9fe]:80", "metadata"},
		"Alibaba's":          {pollers.Config{}, "100.100.100.200:80", "metadata"},
		"zone":               {pollers.Config{}, "[fe80::1%lo]:80", "metadata"},
		"denied beside name": {pollers.Config{Networks: in("169.254.169.254/32"), Deny: in("169.254.0.0/16")}, "169.254.169.254:80", "--poll-deny"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			for _, scheme := range []string{"tcp", "tls"} {
				if tt.want == "" && scheme != "tcp" {
					continue
				}
				f := lookAs(t, tt.conf, object{"addr": scheme + "://" + strings.ReplaceAll(tt.addr, "%", "%25")})
				t.Log(says(f))
				is.Equal(errors.Is(f.Err, pollers.ErrDenied), tt.want != "")
				is.True(strings.Contains(f.Message, tt.want))
			}
		})
	}
}

// authority makes certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.make(time.Hour*24*365, nil, nil)
	return a
}

func (a *authority) make(valid time.Duration, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost", "web01.example.com"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(valid),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, parent, signer = true, true, x509.KeyUsageCertSign, c, key
		c.ExtKeyUsage = nil
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	must(a.t, err)
	cert, err := x509.ParseCertificate(der)
	must(a.t, err)
	return cert, key
}

func (a *authority) pair(valid time.Duration) tls.Certificate {
	cert, key := a.make(valid, a.cert, a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// pairPEM is a certificate with its key, as client_cert wants them.
func (a *authority) pairPEM() []byte {
	cert, key := a.make(time.Hour, a.cert, a.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(a.t, err)
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
}

// secretsDir writes the files of a directory of credentials.
func secretsDir(t testing.TB, files map[string]string) string {
	dir := t.TempDir()
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

func TestTLS(t *testing.T) {
	const day = 24 * time.Hour
	a := newAuthority(t)
	conf := pollers.Config{Credentials: secretsDir(t, map[string]string{"ca.pem": string(a.pem()), "client.pem": string(a.pairPEM()), "junk": "secret text"})}
	peer := func(valid time.Duration, client tls.ClientAuthType) string {
		pool := x509.NewCertPool()
		pool.AddCert(a.cert)
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{a.pair(valid)}, ClientAuth: client, ClientCAs: pool})
		must(t, err)
		accept(t, l, func(c net.Conn) { io.WriteString(c, "* OK IMAP ready\r\n") })
		return l.Addr().String()
	}
	good, soon, now, expired, closed := peer(90*day, 0), peer(10*day, 0), peer(2*day, 0), peer(-time.Hour, 0), peer(90*day, tls.RequireAndVerifyClientCert)
	until := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.DateOnly) }
	for name, tt := range map[string]struct {
		url  object
		want string
	}{
		"good":              {object{"addr": "tls://" + good, "ca": "ca.pem"}, "OK " + good + " speaks TLS 1.3; the certificate is good until " + until(90*day)},
		"said":              {object{"addr": "tls://" + good, "ca": "ca.pem", "expect_body": "IMAP ready"}, "OK "},
		"not said":          {object{"addr": "tls://" + good, "ca": "ca.pem", "expect_body": "POP3"}, "does not match"},
		"unknown":           {object{"addr": "tls://" + good}, "Critical " + good + ": x509: certificate signed by unknown authority"},
		"another name":      {object{"addr": "tls://" + good, "ca": "ca.pem", "server_name": "db.example.com"}, "not db.example.com"},
		"its name":          {object{"addr": "tls://" + good, "ca": "ca.pem", "server_name": "web01.example.com"}, "OK "},
		"soon":              {object{"addr": "tls://" + soon, "ca": "ca.pem"}, "Warning the certificate expires in 10 days, on " + until(10*day)},
		"soon is fine":      {object{"addr": "tls://" + soon, "ca": "ca.pem", "cert_warning_days": 7}, "OK "},
		"now":               {object{"addr": "tls://" + now, "ca": "ca.pem"}, "Critical the certificate expires in 2 days"},
		"expired":           {object{"addr": "tls://" + expired, "ca": "ca.pem"}, "certificate has expired"},
		"needs client":      {object{"addr": "tls://" + closed, "ca": "ca.pem", "expect_body": "OK"}, "certificate required"},
		"client":            {object{"addr": "tls://" + closed, "ca": "ca.pem", "client_cert": "client.pem", "expect_body": "OK"}, "OK "},
		"no such ca":        {object{"addr": "tls://" + good, "ca": "none.pem"}, `Critical ca: "none.pem": there is no such file in the worker's directory of credentials`},
		"ca is none":        {object{"addr": "tls://" + good, "ca": "junk"}, "ca: junk holds no certificate"},
		"client is none":    {object{"addr": "tls://" + good, "client_cert": "junk"}, "does not hold a certificate and its key"},
		"nobody there":      {object{"addr": "tls://127.0.0.1:1"}, "connection refused"},
		"does not speak it": {object{"addr": "tls://" + listen(t, func(c net.Conn) { io.WriteString(c, "220 hello\r\n") })}, "Critical connect to "},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := lookAs(t, conf, tt.url)
			t.Log(says(f), string(f.Document))
			is.True(strings.Contains(says(f), tt.want))
			is.True(!strings.Contains(says(f), "secret text"))
		})
	}
}

// dnsServer is a real server of the library's.
func dnsServer(t testing.TB) string {
	mux := dns.NewServeMux()
	mux.HandleFunc("example.com.", func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		add := func(s string) {
			rr, err := dns.NewRR(s)
			must(t, err)
			m.Answer = append(m.Answer, rr)
		}
		switch name := q.Question[0].Name; {
		case name == "www.example.com." && q.Question[0].Qtype == dns.TypeA:
			add(name + " 60 IN A 192.0.2.2")
			add(name + " 60 IN A 192.0.2.1")
		case name == "example.com." && q.Question[0].Qtype == dns.TypeMX:
			add(name + " 60 IN MX 10 mail.example.com.")
		case name == "big.example.com.":
			if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
				m.Truncated = true
				break
			}
			for i := range 200 {
				add(fmt.Sprintf("%s 60 IN A 192.0.2.%d", name, i))
			}
		case name == "cut.example.com.":
			for i := range 20 {
				add(fmt.Sprintf("%s 60 IN A 192.0.2.%d", name, i))
			}
			if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
				m.Truncated = true
				b, err := m.Pack()
				must(t, err)
				w.Write(b[:len(b)-3])
				return
			}
		case name == "refused.example.com.":
			m.Rcode = dns.RcodeRefused
		case name != "www.example.com." && name != "example.com.":
			m.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(m)
	})
	pc, l := listenBoth(t)
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: mux}, {Listener: l, Handler: mux}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe()
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return pc.LocalAddr().String()
}

// listenBoth listens on one port by UDP and TCP. The port of the one may be taken
// for the other.
func listenBoth(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 100 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		must(t, err)
		if l, err := net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, l
		}
		pc.Close()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

func TestDNS(t *testing.T) {
	s := dnsServer(t)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { silent.Close() })
	for name, tt := range map[string]struct {
		url  any
		want string
	}{
		"an address":   {"dns://" + s + "/www.example.com", "OK www.example.com. A is 192.0.2.1, 192.0.2.2"},
		"mail":         {object{"addr": "dns://" + s + "/example.com", "type": "mx", "expect_body": `^10 mail\.`}, "OK example.com. MX is 10 mail.example.com."},
		"wrong":        {object{"addr": "dns://" + s + "/www.example.com", "expect_body": "198.51.100.1"}, `Critical www.example.com. A is 192.0.2.1, 192.0.2.2, which does not match "198.51.100.1"`},
		"too few":      {object{"addr": "dns://" + s + "/www.example.com", "min_count": 3}, "Critical " + s + " has 2 A records of www.example.com., at least 3 are expected"},
		"none":         {object{"addr": "dns://" + s + "/www.example.com", "type": "AAAA"}, "has 0 AAAA records"},
		"no such name": {"dns://" + s + "/nope.example.com", "Critical " + s + " answers NXDOMAIN for nope.example.com. A"},
		"refused":      {"dns://" + s + "/refused.example.com", "answers REFUSED"},
		"over TCP":     {object{"addr": "dns://" + s + "/big.example.com", "min_count": 200}, "OK "},
		"cut anywhere": {object{"addr": "dns://" + s + "/cut.example.com", "min_count": 20}, "OK "},
		"silence":      {"dns://" + silent.LocalAddr().String() + "/example.com", "Critical ask " + silent.LocalAddr().String() + " for example.com.: no answer in time"},
		"metadata":     {"dns://169.254.169.253/example.com", "is link-local"},
		"a bad type":   {object{"addr": "dns://" + s + "/example.com", "type": "XX"}, "not a type of record"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := look(t, tt.url)
			t.Log(says(f), string(f.Document))
			is.True(strings.Contains(says(f), tt.want))
		})
	}
}

// tlsOf is a server's configuration with a certificate of a that is good for days.
func tlsOf(a *authority, days int) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.pair(time.Duration(days) * 24 * time.Hour)}}
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func target(addr string) events.Target { return events.Target{Addr: addr} }

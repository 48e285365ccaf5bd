package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// certificate writes a new self-signed pair.
func certificate(t *testing.T, name, cert, key string) {
	t.Helper()
	is := is.New(t)
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	is.NoErr(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	is.NoErr(err)
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	is.NoErr(err)
	is.NoErr(os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	is.NoErr(os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
}

// renew writes a new pair and sees to it that the files look changed, whatever
// the file system's clock ticks in.
func renew(t *testing.T, name, cert, key string, later time.Duration) {
	t.Helper()
	is := is.New(t)
	certificate(t, name, cert, key)
	for _, file := range []string{cert, key} {
		is.NoErr(os.Chtimes(file, time.Time{}, time.Now().Add(later)))
	}
}

// HTTPS is served with what the files say at each handshake: certificate, key
// and the authorities of clients, without a restart.
func TestServerTLS(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	log := slog.New(slog.DiscardHandler)
	_, err := serverTLS(&Config{TLSCert: cert, TLSKey: key}, log)
	is.True(err != nil && strings.Contains(err.Error(), "--tls-cert "+cert)) // not there yet

	ca, robot, robotKey := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "robot.pem"), filepath.Join(dir, "robot.key")
	certificate(t, "robot", robot, robotKey)
	pem, err := os.ReadFile(robot)
	is.NoErr(err)
	is.NoErr(os.WriteFile(ca, pem, 0o600))
	certificate(t, "first", cert, key)
	conf, err := serverTLS(&Config{TLSCert: cert, TLSKey: key, TLSClientCA: ca}, log)
	is.NoErr(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	srv := &http.Server{TLSConfig: conf, ReadHeaderTimeout: time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %d", r.Proto, len(r.TLS.VerifiedChains))
	})}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(ln, "", "") }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
	ask := func(client ...tls.Certificate) (server, answer string) {
		t.Helper()
		tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: client}}
		defer tr.CloseIdleConnections()
		res, err := (&http.Client{Transport: tr}).Get("https://" + ln.Addr().String())
		is.NoErr(err)
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		is.NoErr(err)
		return res.TLS.PeerCertificates[0].Subject.CommonName, string(b)
	}
	expect := func(server, answer string, client ...tls.Certificate) {
		t.Helper()
		gotServer, got := ask(client...)
		is.Equal(gotServer, server)
		is.Equal(got, answer)
	}
	bot, err := tls.LoadX509KeyPair(robot, robotKey)
	is.NoErr(err)
	expect("first", "HTTP/2.0 0") // a prober without a certificate
	expect("first", "HTTP/2.0 1", bot)

	renew(t, "second", cert, key, time.Minute)
	expect("second", "HTTP/2.0 0")
	is.NoErr(os.WriteFile(cert, []byte("half"), 0o600))
	expect("second", "HTTP/2.0 0") // a renewal that is half done changes nothing
	renew(t, "third", cert, key, 2*time.Minute)
	expect("third", "HTTP/2.0 1", bot)

	certificate(t, "others", ca, filepath.Join(dir, "others.key")) // the robot's authority goes
	is.NoErr(os.Chtimes(ca, time.Time{}, time.Now().Add(3*time.Minute)))
	expect("third", "HTTP/2.0 0", bot) // it no longer counts

	_, err = serverTLS(&Config{TLSCert: cert, TLSKey: key, TLSClientCA: key}, log)
	is.True(err != nil && strings.Contains(err.Error(), "--tls-client-ca "+key))
	none, err := serverTLS(&Config{}, log)
	is.NoErr(err)
	is.True(none == nil)
}

// The embedded bus over TLS with client certificates, on all interfaces: who has
// none is refused, and certificates are renewed without a restart of either side.
func TestBusTLS(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	certificate(t, "bus", file("bus.pem"), file("bus.key"))
	certificate(t, "client", file("client.pem"), file("client.key"))
	data := t.TempDir()
	p := serve(t, data, "--bus-listen", "0.0.0.0:0", "--bus-tls-cert", file("bus.pem"), "--bus-tls-key", file("bus.key"), "--bus-tls-ca", file("client.pem"))
	is.True(strings.HasPrefix(p.Ready.Bus, "tls://"))
	url := strings.Replace(strings.Replace(p.Ready.Bus, "0.0.0.0", "127.0.0.1", 1), "[::]", "127.0.0.1", 1)
	as := func(name string) []string {
		return []string{"--bus", url, "--bus-tls-ca", file("bus.pem"), "--bus-tls-cert", file(name + ".pem"), "--bus-tls-key", file(name + ".key")}
	}
	push := func(status string, args ...string) error {
		out, err := exec.Command("megaphone", append([]string{"push", "q", status}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	p.must("PUT", "/hosts/web01/checks/q", `{"ttl":"1h"}`, http.StatusCreated)
	is.NoErr(push("OK", as("client")...))
	certificate(t, "stranger", file("stranger.pem"), file("stranger.key"))
	is.True(push("OK", as("stranger")...) != nil)                                                                       // of another authority
	is.True(push("OK", "--bus", url, "--bus-tls-ca", file("bus.pem")) != nil)                                           // no certificate
	is.True(push("OK", "--bus", url, "--bus-tls-cert", file("client.pem"), "--bus-tls-key", file("client.key")) != nil) // an unknown bus

	g := start(t, append([]string{
		"gateway", "--bus-creds", filepath.Join(data, "bus.creds"), "--data", filepath.Join(t.TempDir(), "d"), "--config", "/dev/null",
		"--listen", "127.0.0.1", "--port", "0", "--host", "web01",
	}, as("client")...)...)
	is.Equal(g.check("q").Status, events.OK)

	// Both are renewed. The gateway's connection goes on, and new ones need the new.
	old, err := os.ReadFile(file("client.pem"))
	is.NoErr(err)
	is.NoErr(os.WriteFile(file("old.pem"), old, 0o600))
	oldKey, err := os.ReadFile(file("client.key"))
	is.NoErr(err)
	is.NoErr(os.WriteFile(file("old.key"), oldKey, 0o600))
	renew(t, "bus2", file("bus.pem"), file("bus.key"), time.Minute)
	renew(t, "client2", file("client.pem"), file("client.key"), time.Minute)
	is.NoErr(push("Warning", as("client")...))
	is.True(push("OK", as("old")...) != nil)
	eventually(t, 30*time.Second, "the gateway follows", func() error {
		if g.check("q").Status != events.Warning {
			return errNotYet
		}
		return nil
	})
	// It reconnects with what the files say now.
	p.Stop()
	serve(t, data, "--bus-listen", strings.TrimPrefix(p.Ready.Bus, "tls://"), "--bus-tls-cert", file("bus.pem"), "--bus-tls-key", file("bus.key"), "--bus-tls-ca", file("client.pem"))
	eventually(t, 60*time.Second, "the gateway is back on the bus", func() error {
		if code, _ := g.call("GET", "/readyz", ""); code != http.StatusOK {
			return errNotYet
		}
		return nil
	})
}

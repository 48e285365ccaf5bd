package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/bus"
)

// serverTLS is what HTTP is served with; nil for plain HTTP. Client
// certificates are asked for but not demanded: probers have none.
func serverTLS(c *Config, log *slog.Logger) (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	f := &tlsFiles{
		cert: c.TLSCert, key: c.TLSKey, ca: c.TLSClientCA, flags: "tls-", caFlag: "tls-client-ca",
		auth: tls.VerifyClientCertIfGiven, protocols: []string{"h2", "http/1.1"}, log: log,
	}
	return f.config()
}

// busServerTLS is what the embedded bus is served with; nil for plain TCP. With
// an authority its clients must bear certificates.
func busServerTLS(c *Config, log *slog.Logger) (*tls.Config, error) {
	if c.BusTLSCert == "" {
		return nil, nil
	}
	f := &tlsFiles{
		cert: c.BusTLSCert, key: c.BusTLSKey, ca: c.BusTLSCA, flags: "bus-tls-", caFlag: "bus-tls-ca",
		auth: tls.RequireAndVerifyClientCert, log: log,
	}
	return f.config()
}

// busClientTLS are the options of a connection to a bus that speaks TLS. The
// client reads the files again at each connection.
func busClientTLS(cert, key, ca string) ([]bus.Option, error) {
	var opts []nats.Option
	if ca != "" {
		if _, err := readAuthorities(ca); err != nil {
			return nil, fmt.Errorf("--bus-tls-ca %s: %w", ca, cause(err))
		}
		opts = append(opts, nats.RootCAs(ca))
	}
	if cert != "" {
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			return nil, fmt.Errorf("--bus-tls-cert %s, --bus-tls-key %s: %w", cert, key, cause(err))
		}
		opts = append(opts, nats.ClientCert(cert, key))
	}
	if len(opts) == 0 {
		return nil, nil
	}
	return []bus.Option{bus.WithNATS(opts...)}, nil
}

// tlsFiles are a server's certificate and its clients' authorities. They are
// looked at before each handshake and read again when one has changed; a renewal
// that is half done, or fails, leaves the former ones in use, and is logged once.
type tlsFiles struct {
	cert, key, ca string // ca is empty where clients need no certificate
	flags, caFlag string // how the flags that name them begin, and are called
	auth          tls.ClientAuthType
	protocols     []string
	log           *slog.Logger

	mu     sync.Mutex
	had    *tls.Config
	stamps [3]fileStamp // of what had is made of
	failed [3]fileStamp // of what could not be read
}

type fileStamp struct {
	changed time.Time
	size    int64
}

// config reads the files for the first time.
func (f *tlsFiles) config() (*tls.Config, error) {
	now := f.stamp() // before: what is renewed meanwhile is read again
	first, err := f.read()
	if err != nil {
		return nil, err
	}
	f.had, f.stamps = first, now
	outer := first.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current(), nil }
	return outer, nil
}

func (f *tlsFiles) current() *tls.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.stamp()
	if now == f.stamps || now == f.failed {
		return f.had
	}
	renewed, err := f.read()
	if err != nil {
		f.failed = now
		f.log.Warn("certificates have changed and cannot be used: the former ones stay in use", "error", err)
		return f.had
	}
	f.had, f.stamps = renewed, now
	f.log.Info("certificates were read again", "cert", f.cert)
	return f.had
}

// stamp is what the files look like from outside. One that is not there has the
// zero stamp.
func (f *tlsFiles) stamp() (all [3]fileStamp) {
	for i, file := range []string{f.cert, f.key, f.ca} {
		if info, err := os.Stat(file); file != "" && err == nil {
			all[i] = fileStamp{info.ModTime(), info.Size()}
		}
	}
	return all
}

func (f *tlsFiles) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("--%scert %s, --%skey %s: %w", f.flags, f.cert, f.flags, f.key, cause(err))
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: f.protocols}
	if f.ca == "" {
		return conf, nil
	}
	if conf.ClientCAs, err = readAuthorities(f.ca); err != nil {
		return nil, fmt.Errorf("--%s %s: %w", f.caFlag, f.ca, cause(err))
	}
	conf.ClientAuth = f.auth
	conf.SessionTicketsDisabled = true // else a session would outlive the authority that it was begun with
	return conf, nil
}

func readAuthorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("it holds no certificate in PEM")
	}
	return pool, nil
}

// busTLSOptions are busClientTLS by flags, else by the environment.
func busTLSOptions(cert, key, ca string) ([]bus.Option, error) {
	return busClientTLS(
		cmp.Or(cert, os.Getenv(envPrefix+"BUS_TLS_CERT")), cmp.Or(key, os.Getenv(envPrefix+"BUS_TLS_KEY")), cmp.Or(ca, os.Getenv(envPrefix+"BUS_TLS_CA")),
	)
}

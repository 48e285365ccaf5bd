package pollers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/looprock/megaphone/events"
)

// Days before the end of a certificate, where a check of kind tls does not say.
const (
	certWarningDays  = 14
	certCriticalDays = 3
)

// certificate is what a server showed, in a document.
type certificate struct {
	Subject  string    `json:"subject"`
	Names    []string  `json:"names,omitempty"`
	Issuer   string    `json:"issuer"`
	NotAfter time.Time `json:"not_after"` // the earliest of the chain that was verified
}

// tlsConfig returns the configuration that options ask for: base with another
// authority, certificate and name. Files are read each time: they are replaced
// while a worker runs.
func (s secrets) tlsConfig(base *tls.Config, o events.Options) (*tls.Config, error) {
	conf := &tls.Config{}
	if base != nil {
		conf = base.Clone()
	}
	if o.ServerName != "" {
		conf.ServerName = o.ServerName
	}
	if o.CA != "" {
		pem, err := s.read(o.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no certificate", o.CA)
		}
	}
	if o.ClientCert != "" {
		pem, err := s.read(o.ClientCert)
		if err != nil {
			return nil, fmt.Errorf("client_cert: %w", err)
		}
		pair, err := tls.X509KeyPair(pem, pem)
		if err != nil {
			return nil, fmt.Errorf("client_cert: %s does not hold a certificate and its key", o.ClientCert)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// expiry judges how long the verified chain of a connection is good for.
func expiry(v *verdict, state *tls.ConnectionState, warning, critical *float64, now time.Time) *certificate {
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil
	}
	leaf := state.PeerCertificates[0]
	c := &certificate{Subject: leaf.Subject.String(), Names: leaf.DNSNames, Issuer: leaf.Issuer.String(), NotAfter: leaf.NotAfter.UTC()}
	if len(c.Names) > 20 {
		c.Names = c.Names[:20]
	}
	for i, chain := range state.VerifiedChains {
		first := chain[0].NotAfter
		for _, link := range chain {
			if link.NotAfter.Before(first) {
				first = link.NotAfter
			}
		}
		if i == 0 || first.After(c.NotAfter) { // any chain will do
			c.NotAfter = first.UTC()
		}
	}
	days := c.NotAfter.Sub(now).Hours() / 24
	text := fmt.Sprintf("the certificate expires in %.0f days, on %s", max(days, 0), c.NotAfter.Format(time.DateOnly))
	switch {
	case critical != nil && days < *critical:
		v.say(events.Critical, "%s", text)
	case warning != nil && days < *warning:
		v.say(events.Warning, "%s", text)
	}
	return c
}

func orDays(d *float64, otherwise float64) *float64 {
	if d != nil {
		return d
	}
	return &otherwise
}

// tls checks a handshake, how long the certificate is good for, and what is said.
func (n network) tls(ctx context.Context, t events.Target, o events.Options) Finding {
	u, err := url.Parse(t.Addr)
	if err != nil {
		return failed(t, fmt.Errorf("%q is not an address", t.Addr))
	}
	conf, err := n.secrets.tlsConfig(nil, o)
	if err != nil {
		return failed(t, err)
	}
	dialer := &tls.Dialer{NetDialer: n.dialer, Config: conf}
	raw, err := dialer.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return failed(t, tlsTrouble(ctx, u.Host, err))
	}
	defer raw.Close()
	conn := raw.(*tls.Conn) // what a tls.Dialer returns
	state := conn.ConnectionState()
	var v verdict
	cert := expiry(&v, &state, orDays(o.CertWarningDays, certWarningDays), orDays(o.CertCriticalDays, certCriticalDays), time.Now())
	said, err := talk(ctx, conn, o)
	if err != nil {
		return failed(t, tlsTrouble(ctx, u.Host, err))
	}
	text := fmt.Sprintf("%s speaks %s; the certificate is good until %s", u.Host, tls.VersionName(state.Version), cert.NotAfter.Format(time.DateOnly))
	return found(t, v.status(), v.message(text), peer{Address: conn.RemoteAddr().String(), Said: said, Certificate: cert})
}

// tlsTrouble tells trouble with a certificate from that with a connection.
func tlsTrouble(ctx context.Context, host string, err error) error {
	var bad *tls.CertificateVerificationError
	if errors.As(err, &bad) {
		return fmt.Errorf("%s: %w", host, bad.Err)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return fmt.Errorf("%s: it refused: %w", host, op.Err)
	}
	return plainly(ctx, "connect to "+host, err)
}

package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// serverTLS is what HTTP is served with; nil for plain HTTP. Client
// certificates are asked for but not demanded: probers have none.
func serverTLS(c *Config) (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	pair := &keyPair{cert: c.TLSCert, key: c.TLSKey}
	if _, err := pair.get(nil); err != nil {
		return nil, fmt.Errorf("--tls-cert %s, --tls-key %s: %w", c.TLSCert, c.TLSKey, cause(err))
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get}
	if c.TLSClientCA == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(c.TLSClientCA)
	if err != nil {
		return nil, fmt.Errorf("--tls-client-ca %s: %w", c.TLSClientCA, cause(err))
	}
	conf.ClientCAs, conf.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
	if !conf.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--tls-client-ca %s: %w", c.TLSClientCA, errors.New("it holds no certificate in PEM"))
	}
	return conf, nil
}

// keyPair is a certificate that is read again when its file changes. A renewal
// that is half done leaves the former one in use.
type keyPair struct {
	cert, key string

	mu    sync.Mutex
	had   *tls.Certificate
	stamp time.Time
}

func (p *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	info, err := os.Stat(p.cert)
	if err == nil && (p.had == nil || !info.ModTime().Equal(p.stamp)) {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(p.cert, p.key); err == nil {
			p.had, p.stamp = &pair, info.ModTime()
		}
	}
	if p.had != nil {
		return p.had, nil
	}
	return nil, err
}

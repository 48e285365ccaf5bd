package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// certificate writes a new self-signed pair.
func certificate(t *testing.T, name, cert, key string) {
	t.Helper()
	is := is.New(t)
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	is.NoErr(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	is.NoErr(err)
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	is.NoErr(err)
	is.NoErr(os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	is.NoErr(os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
}

func TestServerTLS(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	_, err := serverTLS(&Config{TLSCert: cert, TLSKey: key})
	is.True(err != nil && strings.Contains(err.Error(), "--tls-cert "+cert)) // not there yet

	certificate(t, "first", cert, key)
	conf, err := serverTLS(&Config{TLSCert: cert, TLSKey: key, TLSClientCA: cert})
	is.NoErr(err)
	served := func() string {
		pair, err := conf.GetCertificate(nil)
		is.NoErr(err)
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		is.NoErr(err)
		return leaf.Subject.CommonName
	}
	is.Equal(served(), "first")

	certificate(t, "second", cert, key)
	is.NoErr(os.Chtimes(cert, time.Time{}, time.Now().Add(time.Minute))) // whatever the file system's clock ticks in
	is.Equal(served(), "second")                                         // renewed

	is.NoErr(os.WriteFile(cert, []byte("half"), 0o600))
	is.NoErr(os.Chtimes(cert, time.Time{}, time.Now().Add(2*time.Minute)))
	is.Equal(served(), "second") // a renewal that is half done changes nothing

	_, err = serverTLS(&Config{TLSCert: cert, TLSKey: key, TLSClientCA: key})
	is.True(err != nil)
	none, err := serverTLS(&Config{})
	is.NoErr(err)
	is.True(none == nil)
}

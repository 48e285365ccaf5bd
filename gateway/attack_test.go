package gateway

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/bus"
)

// raw sends bytes as they are and returns the codes of all answers that come on
// the connection until it is closed or has been quiet for a while.
func (r *rig) raw(request string) (codes []int) {
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		return nil
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		return nil
	}
	in := bufio.NewReader(c)
	for c.SetReadDeadline(time.Now().Add(2*time.Second)) == nil {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			break
		}
		codes = append(codes, res.StatusCode)
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			break
		}
	}
	return codes
}

// What HTTP parsers disagree about, so that one request passes a proxy and
// another arrives here: none of it is taken for a second request, and nothing is
// registered by what hides in it.
func TestSmuggling(t *testing.T) {
	is := is.New(t)
	r := start(t)
	const hidden = "PUT /hosts/web01/checks/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n{\"ttl\":60}"
	framed := func(header, body string) string {
		return "POST /checks?wait=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n" + header + "\r\n\r\n" + body
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, tt := range map[string]struct {
		request string
		codes   string // of all answers
	}{
		"length and chunks":                {framed(fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked", 5+len(hidden)), "0\r\n\r\n"+hidden), "[400]"},
		"chunks end the connection":        {framed("Transfer-Encoding: chunked", "0\r\n\r\n"+hidden), "[400]"},
		"two lengths":                      {framed("Content-Length: 0\r\nContent-Length: 5", hidden), "[400]"},
		"a list of lengths":                {framed("Content-Length: 0, 5", hidden), "[400]"},
		"a length with a sign":             {framed("Content-Length: +0", hidden), "[400]"},
		"a negative length":                {framed("Content-Length: -1", hidden), "[400]"},
		"a length in hex":                  {framed("Content-Length: 0x0", hidden), "[400]"},
		"a huge length":                    {framed("Content-Length: 99999999999999999999", hidden), "[400]"},
		"two encodings":                    {framed("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"+hidden), "[501]"},
		"an encoding beside chunked":       {framed("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"+hidden), "[501]"},
		"an encoding that is none":         {framed("Transfer-Encoding: xchunked", "0\r\n\r\n"+hidden), "[501]"},
		"an encoding with a tab":           {framed("Transfer-Encoding: \tchunked\x0b", "0\r\n\r\n"+hidden), "[400]"},
		"a space before the colon":         {framed("Transfer-Encoding : chunked", "0\r\n\r\n"+hidden), "[400]"},
		"a name with a control character":  {framed("Transfer\x00Encoding: chunked", "0\r\n\r\n"+hidden), "[400]"},
		"a value with a control character": {framed("X: a\x00b", hidden), "[400]"},
		"a bare CR in a value":             {framed("X: a\rContent-Length: 5", hidden), "[400]"},
		"a chunk size that is none":        {framed("Transfer-Encoding: chunked", "zz\r\n\r\n"+hidden), "[400]"},
		"a negative chunk":                 {framed("Transfer-Encoding: chunked", "-1\r\n\r\n"+hidden), "[400]"},
		"a huge chunk":                     {framed("Transfer-Encoding: chunked", "ffffffffffffffff1\r\n\r\n"+hidden), "[400]"},
		"a chunk that is longer":           {framed("Transfer-Encoding: chunked", "1\r\nab\r\n0\r\n\r\n"+hidden), "[400]"},
		"no host":                          {"GET / HTTP/1.1\r\n\r\n" + hidden, "[400]"},
		"two hosts":                        {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + hidden, "[400]"},
		"a host with a path":               {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "[400]"},
		"no version":                       {"GET /\r\n\r\n", "[]"},
		"another version":                  {"GET / HTTP/3.0\r\nHost: a\r\n\r\n", "[505]"},
		"a space in the path":              {"GET /checks /x HTTP/1.1\r\nHost: a\r\n\r\n", "[400]"},
		"a method that is none":            {"G\tT / HTTP/1.1\r\nHost: a\r\n\r\n", "[400]"},
		"an upgrade to HTTP/2":             {"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "[200]"},
		"no HTTP":                          {"\x16\x03\x01\x00\x00", "[]"},
		"a header that is too long":        {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", maxHeader+8<<10) + "\r\n\r\n", "[431]"},
		"a path that is too long":          {"GET /" + strings.Repeat("x", maxHeader+8<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", "[431]"},
		"too many headers":                 {"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 6000) + "\r\n", "[431]"},
		"a body that is too long":          {framed(fmt.Sprintf("Content-Length: %d", maxBody+1), strings.Repeat("x", maxBody+1)), "[413]"},
	} {
		wg.Go(func() {
			if got := fmt.Sprint(r.raw(tt.request)); got != tt.codes {
				t.Errorf("%s: %s, not %s", name, got, tt.codes)
			}
		})
	}
	wg.Wait()
	is.Equal(r.get("/checks").body, "{}") // nothing was registered
	is.Equal(r.get("/hosts/web01/checks/smuggled").code, 404)
}

// Paths that mean another one to other parsers mean nothing here: nothing is
// cleaned, decoded twice or redirected.
func TestPathTricks(t *testing.T) {
	is := is.New(t)
	r := start(t)
	is.Equal(r.do("PUT", "/hosts/web01/checks/a%2Fb", `{"ttl":60}`).code, 201)
	is.Equal(r.do("PUT", "/hosts/web01/checks/%2E%2E", `{"ttl":60}`).code, 201) // a name as any other
	for path, code := range map[string]int{
		"/hosts/web01/checks/a%2Fb":            200,
		"/hosts/web01/checks/a%2fb":            200,
		"/hosts/web01/checks/%2e%2e":           200,
		"/hosts/web01/checks/..":               200, // the same name: nothing is cleaned
		"/hosts/web01/checks/a%252Fb":          404, // decoded once
		"/hosts/web01/checks/a/b":              404,
		"/hosts/web01/checks/../checks":        404,
		"/hosts/../livez":                      404,
		"/./livez":                             404,
		"//livez":                              404,
		"/livez/":                              404,
		"/livez;x=y":                           404,
		"/livez%00":                            404,
		"/LIVEZ":                               404,
		"/%6c%69vez":                           200, // an escaped letter is that letter
		"/hosts%2Fweb01":                       404,
		"/hosts/web01%2Fchecks":                400,
		"/hosts/web01%00":                      400,
		"/hosts/web01%0d%0aSet-Cookie:%20x":    400,
		"/hosts/..%2f..%2fetc%2fpasswd":        400,
		`/hosts/..%5c..%5cetc%5cpasswd`:        400,
		"/hosts/%ff":                           400,
		"/checks/..%2f..%2fetc%2fpasswd":       200, // the original's "no check": an id is any text
		"/lb/..%2fweb01":                       400,
		"/schemas/..%2f..%2fgo.mod":            404,
		"/hosts/web01/badge.svg/..":            404,
		"/hosts/web01/checks/" + longID(512):   404,
		"/hosts/web01/checks/" + longID(513):   400,
		"/hosts/" + longID(254):                400,
		"/compat/healthchecks/..%2f..%2flivez": 404,
		"http://evil.example/livez":            200, // the form for proxies: the path alone counts
	} {
		got := r.raw("GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
		if len(got) != 1 || got[0] != code {
			t.Errorf("GET %s: %v, not %d", path, got, code)
		}
	}
	for _, method := range []string{"TRACE", "CONNECT", "put", "PATCH", "PROPFIND", "PRI"} {
		got := r.raw(method + " /hosts/web01 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-HTTP-Method-Override: DELETE\r\nConnection: close\r\n\r\n")
		is.True(len(got) == 1 && got[0] >= 400 && got[0] < 500)
	}
	is.Equal(r.get("/hosts/web01/checks/a%2Fb").code, 200) // all is still there
}

func longID(n int) string { return strings.Repeat("x", n) }

// Who may write, over the network and through every kind of write: the guard is
// asked before anything is read of the body.
func TestGuardAttacked(t *testing.T) {
	is := is.New(t)
	tokens := filepath.Join(t.TempDir(), "tokens")
	must(t, os.WriteFile(tokens, []byte("ci:secret\n"), 0o600))
	r := start(t, func(c *Config, _ *bus.RegistryOptions) { c.Guard.TokenFile = tokens })
	writes := []string{
		"POST /checks?wait=0", "DELETE /checks/x", "PUT /checks/x/status", "PUT /hosts/web01", "DELETE /hosts/web01", "PUT /hosts/web01/checks/x",
		"DELETE /hosts/web01/checks/x", "PUT /hosts/web01/checks/x/status", "PUT /hosts/web01/override", "DELETE /hosts/web01/override",
		"PUT /hosts/web01/checks/x/override", "DELETE /hosts/web01/checks/x/override", "POST /events",
	}
	var table []string
	for _, rt := range r.table() {
		if rt.method != http.MethodGet && rt.method != http.MethodOptions && !rt.open {
			table = append(table, rt.method+" "+strings.NewReplacer("{host}", "web01", "{id}", "x").Replace(rt.pattern))
		}
	}
	is.Equal(len(table), len(writes)) // every write of the table is attacked
	var wg sync.WaitGroup
	for name, tt := range map[string]struct {
		header []string
		code   int
	}{
		"a rebound name":              {[]string{"Host", "evil.example:18001"}, 403},
		"a name that begins like one": {[]string{"Host", "localhost.evil.example"}, 403},
		"an address that is a name":   {[]string{"Host", "127.0.0.1.evil.example"}, 403},
		"no name":                     {[]string{"Host", ""}, 403},
		"a page of another origin":    {[]string{"Origin", "http://evil.example", "Sec-Fetch-Site", "cross-site"}, 403},
		"a page of a sibling":         {[]string{"Sec-Fetch-Site", "same-site"}, 403},
		"an origin without metadata":  {[]string{"Origin", "http://evil.example"}, 403},
		"an origin of null":           {[]string{"Origin", "null"}, 403},
		"through a proxy":             {[]string{"X-Forwarded-For", "127.0.0.1"}, 403},
		"through another":             {[]string{"X-Real-Ip", "127.0.0.1"}, 403},
		"with an empty header of one": {[]string{"Forwarded", ""}, 403},
		"a wrong token":               {[]string{"Authorization", "Bearer secre"}, 401},
		"a longer token":              {[]string{"Authorization", "Bearer secret1"}, 401},
		"two tokens":                  {[]string{"Authorization", "Bearer secret secret"}, 401},
		"the name of a token":         {[]string{"Authorization", "Bearer ci"}, 401},
		"the line of a token":         {[]string{"Authorization", "Bearer ci:secret"}, 401},
	} {
		wg.Go(func() {
			for _, write := range writes {
				method, path, _ := strings.Cut(write, " ")
				if got, err := r.withHeader(method, path, tt.header); err != nil || got != tt.code {
					t.Errorf("%s: %s: %d, not %d: %v", name, write, got, tt.code, err)
				}
			}
		})
	}
	wg.Wait()
	is.Equal(r.get("/checks").body, "{}")
	// Ways in that are meant to be open are.
	is.Equal(r.do("PUT", "/hosts/web01/checks/x", `{"ttl":60}`, "Authorization", "Bearer secret", "Host", "evil.example", "Via", "1.1 x").code, 201)
}

// withHeader sends a request with a body that never ends: a refusal must not wait for it.
func (r *rig) withHeader(method, path string, header []string) (int, error) {
	text, host := "", "127.0.0.1"
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			host = header[i+1]
			continue
		}
		text += header[i] + ": " + header[i+1] + "\r\n"
	}
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return 0, err
	}
	if _, err = io.WriteString(c, method+" "+path+" HTTP/1.1\r\nHost: "+host+"\r\nContent-Length: 1000\r\n"+text+"\r\n{"); err != nil {
		return 0, err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// Clients that send slowly are cut off, whatever they are slow with, and hold
// nobody else up.
func TestSlowClients(t *testing.T) {
	is := is.New(t)
	r := start(t)
	var wg sync.WaitGroup
	for name, tt := range map[string]struct {
		begin string
		limit time.Duration
	}{
		"nothing":        {"", headerTime},
		"half a header":  {"GET / HTTP/1.1\r\nHost: a\r\nX: ", headerTime},
		"half a line":    {"GET /", headerTime},
		"half a body":    {"PUT /hosts/web01/override HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{", bodyTime},
		"half a chunk":   {"POST /events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/cloudevents+json\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", bodyTime},
		"half a preface": {"PRI * HTTP/2.0\r\n\r\n", headerTime},
	} {
		wg.Go(func() {
			took, err := r.dribble(tt.begin, tt.limit+10*time.Second)
			if err != nil || took > tt.limit+8*time.Second {
				t.Errorf("%s: cut off after %s, not %s: %v", name, took, tt.limit, err)
			}
		})
	}
	is.Equal(r.get("/livez").code, 200)
	wg.Wait()
}

// dribble sends something, then a byte now and then, until the other side closes.
func (r *rig) dribble(begin string, most time.Duration) (time.Duration, error) {
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	began := time.Now()
	if _, err := io.WriteString(c, begin); err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	for time.Since(began) < most {
		if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			return 0, err
		}
		_, err := c.Read(buf)
		var timeout net.Error
		switch {
		case err == nil: // the refusal; the end comes after it
		case errors.As(err, &timeout) && timeout.Timeout():
			if begin != "" {
				if _, err := c.Write([]byte("x")); err != nil {
					return time.Since(began), nil
				}
			}
		default:
			return time.Since(began), nil
		}
	}
	return time.Since(began), errors.New("it was not cut off")
}

// issue makes a certificate; by nil it signs itself.
func issue(t *testing.T, name string, by *tls.Certificate, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until, IsCA: by == nil, BasicConstraintsValid: true,
	}
	parent, signer := template, any(key)
	if by != nil {
		parent, err = x509.ParseCertificate(by.Certificate[0])
		must(t, err)
		signer = by.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A client certificate is a permission to write, if it is of the authority and
// has not expired; over HTTP/1 and HTTP/2.
func TestGuardCertificates(t *testing.T) {
	is := is.New(t)
	soon := time.Now().Add(time.Hour)
	authority, server := issue(t, "authority", nil, soon), issue(t, "server", nil, soon)
	robot, expired := issue(t, "robot", &authority, soon), issue(t, "expired", &authority, time.Now().Add(-time.Hour))
	other := issue(t, "authority", nil, soon) // of the same name
	stranger := issue(t, "robot", &other, soon)
	pool := x509.NewCertPool()
	root, err := x509.ParseCertificate(authority.Certificate[0])
	is.NoErr(err)
	pool.AddCert(root)
	r := start(t, func(c *Config, _ *bus.RegistryOptions) {
		c.Guard.WriteFrom = []netip.Prefix{} // nobody by address
		c.TLS = &tls.Config{Certificates: []tls.Certificate{server}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven}
	})
	put := func(h2 bool, certificate ...tls.Certificate) string {
		t.Helper()
		tr := &http.Transport{ForceAttemptHTTP2: h2, TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, //nolint:gosec // the client is not what is tested
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { // whatever authorities the server names
				if len(certificate) == 0 {
					return &tls.Certificate{}, nil
				}
				return &certificate[0], nil
			},
		}}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, strings.Replace(r.url, "http:", "https:", 1)+"/hosts/web01/override", strings.NewReader(`{"status":"OK","until":"1h"}`))
		is.NoErr(err)
		res, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			return "refused"
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		is.NoErr(err)
		return fmt.Sprint(res.ProtoMajor, " ", res.StatusCode, " ", strings.Contains(string(b), `"by":"robot"`))
	}
	for _, h2 := range []bool{false, true} {
		version := map[bool]string{false: "1", true: "2"}[h2]
		is.Equal(put(h2), version+" 403 false")
		is.Equal(put(h2, robot), version+" 200 true")
		is.Equal(put(h2, expired), "refused")
		is.Equal(put(h2, stranger), "refused")
		is.Equal(put(h2, authority), version+" 200 false") // the authority itself is one of its own
	}
}

package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/bus"
)

func TestGuardWrite(t *testing.T) {
	tokens := filepath.Join(t.TempDir(), "tokens")
	must(t, os.WriteFile(tokens, []byte("# who\n\nci:secret:1\nops: other \n"), 0o600))
	wide := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for name, tt := range map[string]struct {
		o      GuardOptions
		from   string // default loopback
		host   string // default an address
		header []string
		tls    bool
		code   int    // 0: taken
		says   string // or by whom
	}{
		"loopback":                  {},
		"loopback 6":                {from: "[::1]:1"},
		"loopback as 6":             {from: "[::ffff:127.0.0.1]:1"},
		"localhost":                 {host: "localhost:18001"},
		"localhost with a dot":      {host: "LOCALHOST."},
		"an address":                {host: "[::1]:18001"},
		"another address":           {from: "10.1.2.3:1", code: 403, says: "--write-from"},
		"an allowed network":        {o: GuardOptions{WriteFrom: wide}, from: "10.1.2.3:1"},
		"nobody":                    {o: GuardOptions{WriteFrom: []netip.Prefix{}}, code: 403, says: "--write-from"},
		"a proxy":                   {header: []string{"X-Forwarded-For", "10.0.0.1"}, code: 403, says: "--token-file"},
		"a proxy, Via":              {header: []string{"Via", "1.1 x"}, code: 403, says: "Via"},
		"a proxy, Forwarded":        {header: []string{"Forwarded", "for=x"}, code: 403, says: "Forwarded"},
		"a rebound name":            {host: "evil.example:18001", code: 403, says: "--http-names"},
		"a known name":              {o: GuardOptions{HTTPNames: []string{"Mega.Example"}}, host: "mega.example:18001"},
		"another origin":            {header: []string{"Sec-Fetch-Site", "cross-site"}, code: 403, says: "origin"},
		"an origin header":          {header: []string{"Origin", "http://evil.example"}, code: 403, says: "origin"},
		"a token":                   {o: GuardOptions{TokenFile: tokens}, from: "10.1.2.3:1", host: "x.example", header: []string{"Authorization", "Bearer secret:1"}, says: "ci"},
		"another token":             {o: GuardOptions{TokenFile: tokens}, from: "10.1.2.3:1", header: []string{"Authorization", "bearer other", "Via", "x"}, says: "ops"},
		"a wrong token":             {o: GuardOptions{TokenFile: tokens}, header: []string{"Authorization", "Bearer wrong"}, code: 401, says: "--token-file"},
		"no token":                  {o: GuardOptions{TokenFile: tokens}, header: []string{"Authorization", "Bearer "}, code: 401, says: "--token-file"},
		"no scheme that we know":    {header: []string{"Authorization", "Basic eDp5"}},
		"a token without a file":    {from: "10.1.2.3:1", header: []string{"Authorization", "Bearer secret:1"}, code: 401, says: "--token-file"},
		"a token of another origin": {o: GuardOptions{TokenFile: tokens}, header: []string{"Authorization", "Bearer other", "Sec-Fetch-Site", "cross-site"}, code: 403, says: "origin"},
		"a certificate":             {from: "10.1.2.3:1", tls: true, says: "robot"},
		"no address":                {from: "@", code: 403, says: "--write-from"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/hosts/a", nil)
			r.RemoteAddr, r.Host = "127.0.0.1:1234", "10.9.9.9:18001"
			if tt.from != "" {
				r.RemoteAddr = tt.from
			}
			if tt.host != "" {
				r.Host = tt.host
			}
			for i := 0; i < len(tt.header); i += 2 {
				r.Header.Set(tt.header[i], tt.header[i+1])
			}
			if tt.tls {
				cert := &x509.Certificate{Subject: pkix.Name{CommonName: "robot"}}
				r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
			}
			by, err := newGuard(tt.o, slog.New(slog.DiscardHandler)).write(r)
			if tt.code == 0 {
				is.NoErr(err)
				is.Equal(by, tt.says)
				return
			}
			code, detail := codeOf(err)
			is.Equal(code, tt.code)
			is.True(strings.Contains(detail, tt.says)) // names the flag
		})
	}
}

func TestTokensAreReadAgain(t *testing.T) {
	is := is.New(t)
	file := filepath.Join(t.TempDir(), "tokens")
	f := newTokenFile(file, slog.New(slog.DiscardHandler))
	owner := func(token string) string {
		f.looked = time.Time{}
		name, _ := f.owner(token)
		return name
	}
	is.Equal(owner("one"), "") // no file yet
	must(t, os.WriteFile(file, []byte("a:one\n"), 0o600))
	is.Equal(owner("one"), "a")
	must(t, os.WriteFile(file, []byte("a:one\nb:two\n"), 0o600))
	is.Equal(owner("two"), "b")
	must(t, os.WriteFile(file, []byte("nonsense\n"), 0o600))
	is.Equal(owner("two"), "b") // what cannot be read changes nothing
	must(t, os.Remove(file))
	is.Equal(owner("two"), "b")
	must(t, os.WriteFile(file, []byte("b:three\n"), 0o600))
	is.Equal(owner("two"), "")
}

func TestGuardOverHTTP(t *testing.T) {
	is := is.New(t)
	tokens := filepath.Join(t.TempDir(), "tokens")
	must(t, os.WriteFile(tokens, []byte("ci:secret\n"), 0o600))
	r := start(t, func(c *Config, _ *bus.RegistryOptions) {
		c.Guard = GuardOptions{TokenFile: tokens, ReadToken: true, WriteFrom: []netip.Prefix{}}
	})
	const bearer = "Bearer secret"
	got := r.get("/")
	is.Equal(got.code, 401)
	is.Equal(got.header.Get("Content-Type"), htmlType)
	got = r.get("/hosts")
	got.problem(t, 401)
	is.True(strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Bearer"))
	is.Equal(r.do("GET", "/", "", "Authorization", bearer).code, 200)
	is.Equal(r.get("/livez").code, 200)
	is.Equal(r.get("/readyz").code, 200)
	is.Equal(r.get("/metrics").code, 401)
	is.True(strings.Contains(r.do("POST", "/checks", `{"id":"a","url":"http://x/"}`).body, "--write-from"))
	is.Equal(r.do("POST", "/checks?wait=0", `{"id":"a","url":"http://x/"}`, "Authorization", bearer).code, 200)
	is.Equal(r.do("PUT", "/hosts/web01/override", `{"status":"OK","until":"1h"}`, "Authorization", bearer).object(t)["by"], "ci")
}

package gateway

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// GuardOptions say who may write, and who may read. The zero value takes writes
// from loopback alone and lets everybody read.
type GuardOptions struct {
	// TokenFile has a line name:token for each who may write from anywhere, by
	// "Authorization: Bearer <token>". It is read again when it changes. Empty: no tokens.
	TokenFile string
	// WriteFrom are the networks from which writes without a token are taken;
	// nil is loopback, empty but not nil is none.
	WriteFrom []netip.Prefix
	// HTTPNames are the names, beside address literals and localhost, by which
	// writes without a token may address the gateway. Others are refused: a web
	// page could have rebound its name to our address.
	HTTPNames []string
	// ReadToken demands a token for reads too; /livez and /readyz stay open.
	ReadToken bool
}

// forwarding are the headers by which proxies say that they are there.
var forwarding = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Via"}

// guard decides on requests. It is safe for concurrent use.
type guard struct {
	o      GuardOptions
	names  map[string]bool
	cross  *http.CrossOriginProtection
	tokens *tokenFile
}

func newGuard(o GuardOptions, log *slog.Logger) *guard {
	if o.WriteFrom == nil {
		o.WriteFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}
	g := &guard{o: o, names: map[string]bool{"localhost": true}, cross: http.NewCrossOriginProtection()}
	for _, name := range o.HTTPNames {
		g.names[strings.ToLower(strings.TrimSuffix(name, "."))] = true
	}
	g.tokens = newTokenFile(o.TokenFile, log)
	return g
}

// write returns who writes, or why the request must not: an error of code 401 or
// 403 that names the flag which would allow it.
func (g *guard) write(r *http.Request) (by string, err error) {
	if err := g.cross.Check(r); err != nil {
		return "", refuse(http.StatusForbidden, "a web page of another origin may not write here (%v)", err)
	}
	if name, ok, err := g.bearer(r); ok || err != nil {
		return name, err
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return r.TLS.VerifiedChains[0][0].Subject.CommonName, nil
	}
	from := remote(r)
	if !g.near(from) {
		return "", refuse(http.StatusForbidden,
			"writes from %s are not taken: allow its network by --write-from, or send a token of --token-file as Authorization: Bearer", from)
	}
	for _, h := range forwarding {
		if len(r.Header.Values(h)) > 0 {
			return "", refuse(http.StatusForbidden,
				"the request came through a proxy (header %s), so that --write-from cannot tell who writes: send a token of --token-file", h)
		}
	}
	if !g.knows(r.Host) {
		return "", refuse(http.StatusForbidden,
			"the name %q in Host may be rebound to this address by any web page: allow it by --http-names, or use an IP address or localhost", r.Host)
	}
	return "", nil
}

// read returns why a request must not read, nil if it may.
func (g *guard) read(r *http.Request) error {
	if !g.o.ReadToken {
		return nil
	}
	_, ok, err := g.bearer(r)
	if ok || err != nil {
		return err
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return nil
	}
	return refuse(http.StatusUnauthorized, "reads need a token of --token-file as Authorization: Bearer, because of --read token")
}

// bearer returns whose token the request bears; ok is false where it bears none.
func (g *guard) bearer(r *http.Request) (name string, ok bool, err error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", false, nil
	}
	if name, ok = g.tokens.owner(strings.TrimSpace(token)); ok {
		return name, true, nil
	}
	return "", false, refuse(http.StatusUnauthorized, "the token is not in --token-file")
}

func remote(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func (g *guard) near(a netip.Addr) bool {
	for _, p := range g.o.WriteFrom {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// knows reports whether a Host header names no name that a stranger could own.
func (g *guard) knows(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if g.names[name] {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil
}

// tokenFile is the file of tokens.
type tokenFile struct{ reloaded[[]token] }

func newTokenFile(path string, log *slog.Logger) *tokenFile {
	return &tokenFile{reloaded[[]token]{path: path, what: "token file", parse: parseTokens, log: log}}
}

type token struct {
	name string
	sum  [sha256.Size]byte
}

// owner returns the name that belongs to a token.
func (f *tokenFile) owner(text string) (name string, ok bool) {
	if text == "" {
		return "", false
	}
	sum := sha256.Sum256([]byte(text))
	for _, t := range f.get() { // all of them: the time taken tells nothing
		if subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1 {
			name, ok = t.name, true
		}
	}
	return name, ok
}

var errTokens = errors.New("bad token file")

// maxTokens is how many tokens the file has at most: each is compared with what a
// request bears.
const maxTokens = 1000

// parseTokens reads lines name:token; blank ones and those after # do not count.
func parseTokens(text string) ([]token, error) {
	var out []token
	scan := bufio.NewScanner(strings.NewReader(text))
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, secret, ok := strings.Cut(line, ":")
		name, secret = strings.TrimSpace(name), strings.TrimSpace(secret)
		if !ok || name == "" || secret == "" {
			return nil, fmt.Errorf("%w: line %d must be name:token", errTokens, n)
		}
		if len(out) == maxTokens {
			return nil, fmt.Errorf("%w: it has more than %d tokens", errTokens, maxTokens)
		}
		out = append(out, token{name, sha256.Sum256([]byte(secret))})
	}
	return out, scan.Err()
}

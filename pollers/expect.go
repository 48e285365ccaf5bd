package pollers

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
)

// httpSeen is the document of an answer that has none of its own.
type httpSeen struct {
	Code        int          `json:"code"`
	ContentType string       `json:"content_type,omitempty"`
	Bytes       int          `json:"bytes"`
	Certificate *certificate `json:"certificate,omitempty"`
}

// with checks an address with options: how to ask, and what has to come back.
func (h *HTTP) with(ctx context.Context, t events.Target, o events.Options) Finding {
	req, creds, err := h.request(ctx, t, o)
	if err != nil {
		return failed(t, err)
	}
	transport, err := h.transportFor(o)
	if err != nil {
		return failed(t, err)
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(o.ExpectCode) > 0 && req.Response != nil && o.ExpectCode.Contains(req.Response.StatusCode) {
			return http.ErrUseLastResponse
		}
		if creds != nil && !creds.allow(req.URL) {
			req.Header.Del("Authorization")
		}
		return checkRedirect(req, via)
	}}
	resp, body, err := fetch(client, req)
	if err != nil {
		return failed(t, tlsTrouble(ctx, req.URL.Host, urlCause(err)))
	}
	return judgeAnswer(t, o, resp, body)
}

// urlCause leaves out what net/http says before the cause: method and URL.
func urlCause(err error) error {
	if u, ok := err.(*url.Error); ok { //nolint:errorlint // the outermost
		return u.Err
	}
	return err
}

// request makes the request that options ask for.
func (h *HTTP) request(ctx context.Context, t events.Target, o events.Options) (*http.Request, *credentials, error) {
	method := o.Method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, t.Addr, strings.NewReader(o.Body))
	if err != nil {
		return nil, nil, fmt.Errorf("%q is not an address that can be asked with %q", t.Addr, method)
	}
	req.Header.Set("User-Agent", h.net.agent)
	for name, value := range o.Headers {
		req.Header.Set(name, value)
		if http.CanonicalHeaderKey(name) == "Host" {
			req.Host = value
		}
	}
	if o.Credentials == "" {
		return req, nil, nil
	}
	c, err := h.net.secrets.credentials(o.Credentials, req.URL, req.Host)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Authorization", c.header())
	return req, &c, nil
}

// judgeAnswer holds an answer against what is expected.
func judgeAnswer(t events.Target, o events.Options, resp *http.Response, body []byte) Finding {
	var v verdict
	cert := expiry(&v, resp.TLS, o.CertWarningDays, o.CertCriticalDays, time.Now())
	wanted := o.ExpectCode
	if len(wanted) == 0 {
		wanted = events.Codes{{From: 200, To: 299}}
	}
	if !wanted.Contains(resp.StatusCode) {
		v.say(events.Critical, "answered %s, expected %s", resp.Status, wanted)
	}
	if err := expectTexts(&v, o, resp.Header, body); err != nil {
		return failed(t, err)
	}
	r, read := readAs(t, o, answer{resp.Header.Get("Content-Type"), body}, resp.StatusCode)
	seen := httpSeen{resp.StatusCode, resp.Header.Get("Content-Type"), len(body), cert}
	switch {
	case !read:
		return found(t, v.status(), v.message("answered "+resp.Status), seen)
	case len(v.texts) > 0 && r.Status != events.OK:
		v.say(r.Status, "%s", r.Message)
	}
	r.Status, r.Message = events.Worse(v.status(), r.Status), v.message(r.Message)
	if r.Document == nil {
		r.Document = found(t, r.Status, "", seen).Document
	}
	return Finding{Reading: finish(t, r)}
}

func expectTexts(v *verdict, o events.Options, header http.Header, body []byte) error {
	pattern, err := events.Pattern(o.ExpectBody)
	if err != nil {
		return err
	}
	if pattern != nil && !pattern.Match(body) {
		v.say(events.Critical, "the body does not match %q", o.ExpectBody)
	}
	for name, text := range o.ExpectHeader {
		pattern, err := events.Pattern(text)
		if err != nil {
			return err
		}
		values, there := header[http.CanonicalHeaderKey(name)]
		value := strings.Join(values, ", ")
		switch {
		case !there:
			v.say(events.Critical, "there is no header %s", name)
		case pattern != nil && !pattern.MatchString(value):
			v.say(events.Critical, "the header %s is %q, which does not match %q", name, events.Cut(value, 200), text)
		}
	}
	return nil
}

// readAs reads the document of an answer; read is false where none is needed.
func readAs(t events.Target, o events.Options, a answer, code int) (r Reading, read bool) {
	expecting := len(o.ExpectCode) > 0 || o.ExpectBody != "" || len(o.ExpectHeader) > 0
	switch o.Dialect {
	case events.DialectCode:
		return r, false
	case "megaphone":
		return Read(t, a.body), true
	case "":
		break
	default:
		if r, ok := recognise(a, o.Dialect); ok {
			return r, true
		}
		return critical("the answer is not in the dialect " + o.Dialect), true
	}
	if t.JSONPath != "" {
		return Read(t, a.body), true
	}
	if r, ok := recognise(a, ""); ok {
		return r, true
	}
	r = Read(t, a.body)
	if r.Document == nil || !isOriginal(r.Document) {
		return r, !expecting && code >= 200 && code <= 299
	}
	return r, true
}

// transports are those of checks with certificates of their own, by what those
// hold: files are replaced while a worker runs.
type transports struct {
	mu  sync.Mutex
	all map[[sha256.Size]byte]*http.Transport
}

// maxTransports is how many are kept before all are made anew.
const maxTransports = 64

// once reports whether a check needs a connection of its own. One that is kept
// shows the certificate of the day on which it was made. And its server may end it
// while a request is on its way: net/http sends that again if it is one that may
// be sent twice, and else says that there was no answer.
func once(o events.Options) bool {
	if o.CertWarningDays != nil || o.CertCriticalDays != nil {
		return true
	}
	switch o.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return false
	}
	return true
}

func (h *HTTP) transportFor(o events.Options) (*http.Transport, error) {
	once := once(o)
	switch plain := o.CA == "" && o.ClientCert == "" && o.ServerName == ""; {
	case plain && once:
		return h.once, nil
	case plain:
		return h.transport, nil
	}
	sum := sha256.New()
	for _, file := range []string{o.CA, o.ClientCert} {
		if file == "" {
			continue
		}
		b, err := h.net.secrets.read(file)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(sum, "%d %s", len(b), b) // never fails
	}
	fmt.Fprintf(sum, "%q %q %q %t", o.CA, o.ClientCert, o.ServerName, once)
	key := [sha256.Size]byte(sum.Sum(nil))
	h.own.mu.Lock()
	defer h.own.mu.Unlock()
	if kept := h.own.all[key]; kept != nil {
		return kept, nil
	}
	conf, err := h.net.secrets.tlsConfig(h.conf, o)
	if err != nil {
		return nil, err
	}
	if len(h.own.all) >= maxTransports || h.own.all == nil {
		h.own.close()
		h.own.all = map[[sha256.Size]byte]*http.Transport{}
	}
	made := newTransport(h.net, conf)
	made.DisableKeepAlives = once
	h.own.all[key] = made
	return made, nil
}

// close closes what is idle. The caller holds mu.
func (t *transports) close() {
	for _, kept := range t.all {
		kept.CloseIdleConnections()
	}
}

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// contractCase is what a client of the original does to a server of its own,
// and what it is answered. docs/legacy.md says where the cases come from.
type contractCase struct {
	ID       string                  `json:"id"`
	Title    string                  `json:"title"`
	Env      map[string]string       `json:"env"`  // "{{UNSET}}" takes a variable away
	Conf     string                  `json:"conf"` // megaphone.conf
	Files    map[string]string       `json:"files"`
	Upstream map[string]contractPage `json:"upstream"`
	Starts   *bool                   `json:"starts"` // absent: it does
	Steps    []contractStep          `json:"steps"`
}

// contractStep is one of: a request (Do), another start (Restart), a change of
// the services (Serve) or of files (Write), a look at a file (Read).
type contractStep struct {
	Do        string            `json:"do"` // method and path
	Headers   map[string]string `json:"headers"`
	Body      string            `json:"body"`
	KeepAlive bool              `json:"keep_alive"` // the next request comes over the same connection
	Behind    bool              `json:"behind"`     // the next steps do not wait for the answer

	Restart bool                    `json:"restart"`
	Serve   map[string]contractPage `json:"serve"`
	Write   map[string]string       `json:"write"` // "{{MKDIR}}" makes a directory, "{{REMOVE}}" removes
	Read    string                  `json:"read"`

	Want *contractAnswer `json:"want"`
}

// contractAnswer is compared byte for byte, of error pages of the original
// ("{{HTML}}") all but the body.
type contractAnswer struct {
	// Of is whose answer it is: the original's as recorded, ours where Megaphone
	// mends the original (Reason), or that of the contract's words.
	Of          string `json:"of,omitempty"`
	Reason      string `json:"reason,omitempty"`
	Code        int    `json:"code,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	Allow       string `json:"allow,omitempty"`
	Body        string `json:"body"`
	Missing     bool   `json:"missing,omitempty"` // of a file
}

func (a contractAnswer) String() string {
	text := fmt.Sprintf("%d, Content-Type %q, Allow %q, body %q", a.Code, a.ContentType, a.Allow, a.Body)
	if a.Of != "" {
		text += " (of " + a.Of + "; " + a.Reason + ")"
	}
	return text
}

// contractPage is what a service answers.
type contractPage struct {
	Code     int               `json:"code"` // 200 when absent
	Headers  map[string]string `json:"headers"`
	Body     string            `json:"body"`
	DelayMS  int               `json:"delay_ms"`
	RepeatX  int               `json:"repeat_x"` // how many x stand for {{X}}
	Location string            `json:"location"`
}

// raceEnabled is set in binaries with the race detector, whose processes need
// seconds to start.
var raceEnabled bool

// The original's API, as its clients see it: answers recorded from the original,
// ours where it is mended, and the contract's rules beyond.
func TestContract(t *testing.T) {
	skipUnderRace(t)
	b, err := os.ReadFile(filepath.Join("testdata", "contract.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Cases []contractCase `json:"cases"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	// Starts wait more than they compute: more at once than t.Parallel allows.
	const atOnce = 6
	cases := make(chan contractCase)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for c := range cases {
				t.Run(c.ID, func(t *testing.T) { newContractRun(t, c).play() })
			}
		})
	}
	seen := map[string]bool{}
	for _, c := range doc.Cases {
		if seen[c.ID] {
			t.Errorf("two cases are named %s", c.ID)
		}
		seen[c.ID] = true
		cases <- c
	}
	close(cases)
	wg.Wait()
	if len(doc.Cases) < 140 {
		t.Errorf("%d cases: some were lost", len(doc.Cases))
	}
}

// contractRun is one case with its server and services.
type contractRun struct {
	t    *testing.T
	c    contractCase
	dir  string
	up   *contractServices
	p    *process
	kept *contractConn
	wg   sync.WaitGroup
}

func newContractRun(t *testing.T, c contractCase) *contractRun {
	r := &contractRun{t: t, c: c, dir: t.TempDir(), up: &contractServices{pages: map[string]contractPage{}}}
	r.up.url = newHTTPServer(t, r.up)
	r.up.Set(c.Upstream)
	return r
}

func (r *contractRun) play() {
	r.write(r.c.Files)
	if starts := r.start(); starts != (r.c.Starts == nil || *r.c.Starts) {
		r.t.Fatalf("%s: the server starts: %v", r.c.Title, starts)
	}
	defer func() {
		r.wg.Wait()
		if r.kept != nil {
			_ = r.kept.Close() // the case is over
		}
	}()
	for i, s := range r.c.Steps {
		what := fmt.Sprintf("%s: step %d", r.c.Title, i)
		switch {
		case s.Restart:
			r.p.Stop()
			if !r.start() {
				r.t.Fatalf("%s: the server does not start again", what)
			}
		case s.Serve != nil:
			r.up.Set(s.Serve)
		case s.Write != nil:
			r.write(s.Write)
		case s.Read != "":
			s.Want.Body = compactJSON(s.Want.Body)
			r.compare(what+", file "+s.Read, s.Want, r.read(s.Read))
		case s.Behind:
			conn := r.dial()
			r.wg.Go(func() { r.request(what, s, conn) })
		default:
			conn := r.kept
			if r.kept = nil; conn == nil {
				conn = r.dial()
			}
			if r.request(what, s, conn); s.KeepAlive {
				r.kept = conn
			}
		}
	}
}

// start starts the server as an operator of the original would: by variables
// and megaphone.conf.
func (r *contractRun) start() bool {
	env := map[string]string{
		"MEGAPHONE_LISTEN": "127.0.0.1", "MEGAPHONE_PORT": "0", "MEGAPHONE_CACHE": filepath.Join(r.dir, "cache.json"), "TZ": "UTC",
		"GOGC":                    "400", // it lives for a second
		"MEGAPHONE_REGISTER_WAIT": "40",  // the machine may be busy; POST answers as soon as there is a result
	}
	for key, value := range r.c.Env {
		if env[key] = r.expand(value); value == "{{UNSET}}" {
			delete(env, key)
		}
	}
	conf := os.DevNull
	if r.c.Conf != "" {
		conf = filepath.Join(r.dir, "megaphone.conf")
		r.write(map[string]string{"megaphone.conf": r.c.Conf})
	}
	var list []string
	for _, key := range slices.Sorted(maps.Keys(env)) {
		list = append(list, key+"="+env[key])
	}
	r.p = launch(r.t, list, "serve", "--data", filepath.Join(r.dir, "data"), "--bus-listen", "127.0.0.1:0", "--host", "web01", "--config", conf)
	return r.p.becomesReady()
}

func (r *contractRun) write(files map[string]string) {
	r.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text, path := files[name], filepath.Join(r.dir, name)
		err := os.RemoveAll(path)
		switch {
		case err != nil || text == "{{REMOVE}}":
		case text == "{{MKDIR}}":
			err = os.Mkdir(path, 0o755)
		default:
			err = os.WriteFile(path, []byte(r.expand(text)), 0o644)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *contractRun) read(name string) contractAnswer {
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.t.Fatal(err)
	}
	return contractAnswer{Body: compactJSON(r.mask(string(b))), Missing: err != nil}
}

// compactJSON is JSON without blanks between its values. What escapes a file
// has is no contract, either.
func compactJSON(text string) string {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return text
	}
	b, err := json.Marshal(v)
	if err != nil {
		return text
	}
	return string(b)
}

func (r *contractRun) compare(what string, want *contractAnswer, got contractAnswer) {
	r.t.Helper()
	if want == nil {
		return
	}
	plain := *want
	plain.Of, plain.Reason = "", ""
	if begin, ok := strings.CutSuffix(plain.Body, "{{ANY}}"); ok && strings.HasPrefix(got.Body, begin) {
		plain.Body = got.Body
	}
	if got != plain {
		r.t.Errorf("%s\nwant %s\ngot  %s", what, *want, got)
	}
}

// downURL is where nothing listens.
const downURL = "http://127.0.0.1:1"

func (r *contractRun) expand(s string) string {
	return strings.NewReplacer("{{UP}}", r.up.url, "{{DOWN}}", downURL, "{{DIR}}", r.dir).Replace(s)
}

// dateForm is the original's %Y-%m-%dT%H:%M:%S%Z.
const dateForm = "2006-01-02T15:04:05MST"

var contractDate = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[A-Z]{3,4}`)

func (r *contractRun) mask(s string) string {
	return strings.NewReplacer(r.up.url, "{{UP}}", downURL, "{{DOWN}}", r.dir, "{{DIR}}").Replace(s)
}

// stepLimit bounds a request; whatever takes as long hangs.
const stepLimit = time.Minute

// contractConn is a connection to the server.
type contractConn struct {
	net.Conn
	r *bufio.Reader
}

func (r *contractRun) dial() *contractConn {
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(r.p.Ready.HTTP, "http://"), stepLimit)
	if err != nil {
		r.t.Fatalf("%s: %v", r.c.Title, err)
	}
	return &contractConn{conn, bufio.NewReader(conn)}
}

// request makes a request, byte for byte as the case has it, and compares. It
// closes the connection where no other request is to come over it.
func (r *contractRun) request(what string, s contractStep, conn *contractConn) {
	what += ", " + s.Do
	if !s.KeepAlive {
		defer conn.Close()
	}
	method, path, _ := strings.Cut(s.Do, " ")
	begin := time.Now().Truncate(time.Second)
	got, length, date, err := r.exchange(conn, method, path, s)
	if err != nil {
		r.t.Errorf("%s: %v", what, err)
		return
	}
	r.compare(what, s.Want, got)
	if !date.IsZero() && (date.Before(begin) || date.After(time.Now())) {
		r.t.Errorf("%s: date %s is not that of the answer", what, date)
	}
	if method != http.MethodHead || got.Code != http.StatusOK {
		return
	}
	other := r.dial()
	defer other.Close()
	if _, want, _, err := r.exchange(other, http.MethodGet, path, contractStep{}); err != nil || length != want {
		r.t.Errorf("%s: Content-Length %d, of GET %d (%v)", what, length, want, err)
	}
}

// exchange also returns Content-Length, and the date in the body of GET /.
func (r *contractRun) exchange(conn *contractConn, method, path string, s contractStep) (got contractAnswer, length int64, date time.Time, err error) {
	body := r.expand(s.Body)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, strings.TrimPrefix(r.p.Ready.HTTP, "http://"))
	for key, value := range s.Headers {
		fmt.Fprintf(&b, "%s: %s\r\n", key, value)
	}
	if s.Headers["Transfer-Encoding"] == "" && (body != "" || method == http.MethodPost || method == http.MethodPut) {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	if !s.KeepAlive {
		b.WriteString("Connection: close\r\n")
	}
	if err := conn.SetDeadline(time.Now().Add(stepLimit)); err != nil {
		return got, 0, date, err
	}
	if _, err := io.WriteString(conn, b.String()+"\r\n"+body); err != nil {
		return got, 0, date, err
	}
	res, err := http.ReadResponse(conn.r, &http.Request{Method: method})
	if err != nil {
		return got, 0, date, fmt.Errorf("no answer: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return got, 0, date, err
	}
	if res.ContentLength < 0 || res.Proto != "HTTP/1.1" {
		return got, 0, date, fmt.Errorf("%s with Content-Length %d", res.Proto, res.ContentLength)
	}
	if strings.HasPrefix(path, "/?") || path == "/" {
		date, _ = time.Parse(dateForm, contractDate.FindString(string(text))) // zero: the body differs anyway
	}
	got = contractAnswer{
		Code: res.StatusCode, ContentType: res.Header.Get("Content-Type"), Allow: res.Header.Get("Allow"), Body: r.mask(string(text)),
	}
	if !date.IsZero() {
		got.Body = strings.Replace(got.Body, date.Format(dateForm), "{{DATE}}", 1)
	}
	if strings.HasPrefix(got.Body, "<!DOCTYPE") {
		got.Body = "{{HTML}}"
	}
	return got, res.ContentLength, date, nil
}

// contractServices are the services of a case.
type contractServices struct {
	url   string
	mu    sync.Mutex
	pages map[string]contractPage
}

// Set changes what some of the services answer.
func (u *contractServices) Set(pages map[string]contractPage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	maps.Copy(u.pages, pages)
}

func (u *contractServices) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	page, ok := u.pages[r.URL.Path]
	u.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	select {
	case <-time.After(time.Duration(page.DelayMS) * time.Millisecond):
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "application/json")
	for key, value := range page.Headers {
		w.Header().Set(key, value)
	}
	if page.Location != "" {
		w.Header().Set("Location", strings.ReplaceAll(page.Location, "{{UP}}", u.url))
	}
	if page.Code == 0 {
		page.Code = http.StatusOK
	}
	w.WriteHeader(page.Code)
	_, _ = io.WriteString(w, strings.ReplaceAll(page.Body, "{{X}}", strings.Repeat("x", page.RepeatX))) // the poller may be gone
}

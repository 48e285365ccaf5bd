package pollers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/looprock/megaphone/events"
	"golang.org/x/sync/errgroup"
)

// Bounds of a survey.
const (
	MaxCandidates     = 256         // sockets beyond are counted, and not looked at
	DefaultAskTimeout = time.Second // of one request, its answer included

	askedAtOnce = 8
)

// AskedPaths are where status documents usually are, in the order in which they
// are asked for.
var AskedPaths = []string{"/health", "/actuator/health", "/healthz", "/status", "/"}

// Candidate is something that listens on this machine, and what would watch it.
type Candidate struct {
	Listens string `json:"listens"` // localhost:PORT, or ADDRESS:PORT
	Port    uint16 `json:"port"`
	Process string `json:"process,omitempty"`
	PID     int32  `json:"pid,omitempty"`     // of one of those that share the socket; absent where it is not shown to this user
	Dialect string `json:"dialect,omitempty"` // of its status document; absent where there is none
	Path    string `json:"path,omitempty"`    // where that is
	Status  string `json:"status,omitempty"`  // that it says
	Note    string `json:"note"`              // what was found, for people
	// Registration would watch it; absent where nothing should.
	Registration *events.Registration `json:"registration,omitempty"`

	ask netip.AddrPort // the loopback address that reaches it; zero for none
}

// Survey is what was found by looking at a machine, and what was done for it.
type Survey struct {
	Candidates []Candidate `json:"candidates"`
	Sockets    int         `json:"sockets"`  // that listen
	Asked      int         `json:"asked"`    // candidates
	Requests   int         `json:"requests"` // HTTP GETs, all to loopback
	Left       int         `json:"left"`     // beyond MaxCandidates
}

// LookOptions narrow a survey. The zero value looks at everything.
type LookOptions struct {
	Ports   []uint16      // to look at alone; nil: all
	Timeout time.Duration // of one request; 0 means DefaultAskTimeout
}

// Look surveys this machine: the TCP sockets that listen, and the status documents
// that they answer on loopback, by one GET at most for each of AskedPaths. Nothing
// else is connected to: redirects are not followed.
func Look(ctx context.Context, o LookOptions) (Survey, error) {
	o.Timeout = cmp.Or(o.Timeout, DefaultAskTimeout)
	sockets, err := listening(ctx)
	if err != nil {
		return Survey{}, err
	}
	if o.Ports != nil {
		sockets = slices.DeleteFunc(sockets, func(s socket) bool { return !slices.Contains(o.Ports, s.at.Port()) })
	}
	running, err := (&processes{}).list(ctx)
	if err != nil {
		return Survey{}, fmt.Errorf("look at the processes: %w", err)
	}
	names := map[int32]string{}
	for _, one := range running {
		names[one.Pid] = one.name
	}
	s := Survey{Candidates: candidates(sockets, names), Sockets: len(sockets)}
	if s.Left = max(len(s.Candidates)-MaxCandidates, 0); s.Left > 0 {
		s.Candidates = s.Candidates[:MaxCandidates]
	}
	requests := make([]int, len(s.Candidates))
	var g errgroup.Group
	g.SetLimit(askedAtOnce)
	for i := range s.Candidates {
		if !s.Candidates[i].ask.IsValid() {
			continue
		}
		s.Asked++
		g.Go(func() error { requests[i] = s.Candidates[i].askAll(ctx, o.Timeout); return nil })
	}
	_ = g.Wait() // always nil
	for _, n := range requests {
		s.Requests += n
	}
	return s, ctx.Err()
}

// itself is the name of Megaphone's processes: who watches itself is never well
// again once it was not.
const itself = "megaphone"

var plainID = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

// candidates are the sockets, those together that are reached by one address. Each
// has a registration that tries to connect.
func candidates(sockets []socket, names map[int32]string) []Candidate {
	var all []Candidate
	at := map[string]int{}
	for _, s := range sockets {
		listens := s.address() + ":" + strconv.Itoa(int(s.at.Port()))
		i, ok := at[listens]
		if !ok {
			i = len(all)
			at[listens] = i
			all = append(all, Candidate{Listens: listens, Port: s.at.Port(), Process: names[s.pid], PID: s.pid})
		}
		c := &all[i]
		if c.Process == itself {
			c.Note = "Megaphone itself"
			continue
		}
		if !s.loopback() {
			c.Note = "not asked: loopback does not reach it"
			continue
		}
		own := netip.AddrPortFrom(netip.IPv6Loopback(), s.at.Port())
		if s.at.Addr().Is4() {
			own = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), s.at.Port())
		}
		if !c.ask.IsValid() || own.Addr().Is4() {
			c.ask = own
		}
	}
	nameAll(all)
	return all
}

// nameAll gives each candidate an id of its own, and a registration by it.
func nameAll(all []Candidate) {
	count, used := map[string]int{}, map[string]bool{}
	for _, c := range all {
		count[c.Process]++
	}
	for i := range all {
		c := &all[i]
		id := c.Process
		switch {
		case id == itself:
			continue
		case !plainID.MatchString(id):
			id = fmt.Sprintf("port-%d", c.Port)
		case count[id] > 1:
			id = fmt.Sprintf("%s-%d", id, c.Port)
		}
		first := id
		for n := 2; used[id]; n++ {
			id = fmt.Sprintf("%s-%d", first, n)
		}
		used[id] = true
		c.watch(id, "tcp://"+c.Listens, 0)
	}
}

// watch sets the registration; code is the one that is expected, 0 for none.
func (c *Candidate) watch(id, addr string, code int) {
	var url any = addr
	if code != 0 {
		url = struct {
			Addr string `json:"addr"`
			Code int    `json:"expect_code"`
		}{addr, code}
	}
	raw, err := json.Marshal(url)
	if err != nil {
		panic(err) // a string and a number
	}
	c.Registration = &events.Registration{ID: id, URL: raw}
}

// askAll asks for each path until one answers with a status document, or until
// nothing answers over HTTP. It returns how often it asked.
func (c *Candidate) askAll(ctx context.Context, timeout time.Duration) (asked int) {
	client, done := askOnly(c.ask)
	defer done()
	id, found := c.Registration.ID, false
	for _, path := range AskedPaths {
		addr := "http://" + c.Listens + path
		asked++
		a, err := askFor(ctx, client, addr, timeout)
		if err != nil {
			if asked == 1 {
				c.Note = err.Error()
			}
			return asked
		}
		if a.dialect != "" {
			c.Dialect, c.Path, c.Status = a.dialect, path, a.Status.String()
			c.Note = fmt.Sprintf("%s at %s says %s: %s", a.dialect, path, a.Status, a.Message)
			c.watch(id, addr, 0)
			return asked
		}
		page := a.code/100 == 2 && (!a.html || path == "/") // many answer everything with the same page
		if !found {
			c.Note = fmt.Sprintf("HTTP without a status document: %d at %s", a.code, path)
		}
		if page && !found {
			found = true
			c.watch(id, addr, a.code)
		}
	}
	return asked
}

// asked is an answer over HTTP. Without a dialect it holds no status document.
type asked struct {
	Reading
	dialect string
	code    int
	html    bool
}

func askFor(ctx context.Context, client *http.Client, addr string, timeout time.Duration) (asked, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addr, nil)
	if err != nil {
		return asked{}, err
	}
	req.Header.Set("User-Agent", "megaphone discover")
	resp, body, err := fetch(client, req)
	switch {
	case ctx.Err() != nil:
		return asked{}, fmt.Errorf("no answer over HTTP within %s", events.Duration(timeout))
	case err != nil:
		return asked{}, errors.New("no answer over HTTP")
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // empty where it is none
	a := asked{code: resp.StatusCode, html: kind == "text/html"}
	target := events.Target{Addr: addr}
	if doc, ok := clean(body); ok && isOriginal(doc) && a.code/100 == 2 {
		a.dialect, a.Reading = "megaphone", Read(target, body)
	} else if dialect, r, ok := identify(answer{kind, body}, ""); ok {
		a.dialect, a.Reading = dialect, inDialect(target, r, resp).Reading
	}
	return a, nil
}

// askOnly returns a client that connects to one address, whatever it is asked
// for, and follows nothing. done ends its connections.
func askOnly(at netip.AddrPort) (client *http.Client, done func()) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", at.String())
	}
	t := &http.Transport{DialContext: dial, DisableCompression: true, MaxResponseHeaderBytes: maxHeaders}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: t, CheckRedirect: stay}, t.CloseIdleConnections
}

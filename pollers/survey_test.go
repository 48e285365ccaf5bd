package pollers

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
)

// answering serves paths, and remembers which were asked for.
type answering struct {
	mu    sync.Mutex
	asked []string
}

func (a *answering) server(t *testing.T, paths map[string]string) uint16 {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.asked = append(a.asked, r.Method+" "+r.URL.Path)
		a.mu.Unlock()
		text, ok := paths[r.URL.Path]
		if !ok {
			text, ok = paths["*"]
		}
		to, moved := strings.CutPrefix(text, "to ")
		switch {
		case moved:
			http.Redirect(w, r, to, http.StatusFound)
		case ok:
			fmt.Fprint(w, text)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String()).Port()
}

func TestLook(t *testing.T) {
	is := is.New(t)
	var all answering
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	var open sync.WaitGroup
	open.Go(func() {
		for {
			c, err := raw.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "220 mail.example.com ESMTP\r\n")
			c.Close()
		}
	})
	t.Cleanup(func() { raw.Close(); open.Wait() })
	ports := map[string]uint16{
		"actuator":  all.server(t, map[string]string{"/actuator/health": `{"status":"UP"}`, "/": "<html>"}),
		"original":  all.server(t, map[string]string{"/": `{"status":"Warning","message":"disk"}`}),
		"text":      all.server(t, map[string]string{"/healthz": "ok"}),
		"a page":    all.server(t, map[string]string{"*": "<html><body>Shop</body></html>"}),
		"nothing":   all.server(t, nil),
		"elsewhere": all.server(t, map[string]string{"*": "to http://" + raw.Addr().String() + "/"}),
		"no HTTP":   netip.MustParseAddrPort(raw.Addr().String()).Port(),
	}
	numbers := map[uint16]string{}
	var only []uint16
	for name, port := range ports {
		numbers[port] = name
		only = append(only, port)
	}
	s, err := Look(t.Context(), LookOptions{Ports: only, Timeout: 20 * time.Second})
	is.NoErr(err)
	is.Equal(len(s.Candidates), len(ports))
	is.Equal(s.Asked, len(ports))
	for _, c := range s.Candidates {
		name := numbers[c.Port]
		at := fmt.Sprintf(`"http://localhost:%d`, c.Port)
		want := map[string]struct{ note, url string }{
			"actuator":  {"actuator at /actuator/health says OK: UP", at + `/actuator/health"`},
			"original":  {"megaphone at / says Warning: disk", at + `/"`},
			"text":      {"HTTP without a status document: 200 at /healthz", `{"addr":` + at + `/healthz","expect_code":200}`},
			"a page":    {"HTTP without a status document: 200 at /", `{"addr":` + at + `/","expect_code":200}`},
			"nothing":   {"HTTP without a status document: 404 at /", fmt.Sprintf(`"tcp://localhost:%d"`, c.Port)},
			"elsewhere": {"HTTP without a status document: 302 at /", fmt.Sprintf(`"tcp://localhost:%d"`, c.Port)},
			"no HTTP":   {"no answer over HTTP", fmt.Sprintf(`"tcp://localhost:%d"`, c.Port)},
		}[name]
		t.Log(name, c.Note, c.Registration.ID, string(c.Registration.URL))
		is.Equal(c.Note, want.note)
		is.Equal(string(c.Registration.URL), want.url)
		is.NoErr(c.Registration.ValidateStrict())
		is.Equal(c.Registration.ID, fmt.Sprintf("%s-%d", c.Process, c.Port)) // this process's, all of them
	}
	// Of the six over HTTP: 2, 5, 5, 5, 5 and 5 requests; of the other one.
	is.Equal(s.Requests, 28)
	is.Equal(len(all.asked), 27)
	for _, one := range all.asked {
		is.True(strings.HasPrefix(one, "GET /"))
	}
}

func TestCandidates(t *testing.T) {
	is := is.New(t)
	at := func(pid int32, text string) socket { return socket{pid, netip.MustParseAddrPort(text)} }
	names := map[int32]string{1: "nginx", 2: "sshd", 3: "megaphone", 4: "a\nrm -rf ~;", 5: "$(reboot)"}
	list := candidates([]socket{
		at(1, "0.0.0.0:80"), at(1, "[::]:80"), at(1, "[::]:443"), at(2, "10.0.0.5:22"), at(2, "[fd00::1]:22"),
		at(3, "0.0.0.0:18001"), at(0, "127.0.0.1:25"), at(4, "127.0.0.1:99"), at(5, "127.0.0.2:98"),
	}, names)
	var got []string
	for _, c := range list {
		line := c.Listens
		if c.ask.IsValid() {
			line += " asked at " + c.ask.String()
		}
		if c.Registration != nil {
			line += " " + c.Registration.ID + " " + string(c.Registration.URL)
		}
		got = append(got, line)
	}
	is.Equal(got, []string{
		`localhost:80 asked at 127.0.0.1:80 nginx-80 "tcp://localhost:80"`,
		`localhost:443 asked at [::1]:443 nginx-443 "tcp://localhost:443"`,
		`10.0.0.5:22 sshd-22 "tcp://10.0.0.5:22"`, // not by loopback: not asked
		`[fd00::1]:22 sshd-22-2 "tcp://[fd00::1]:22"`,
		`localhost:18001`, // Megaphone itself
		`localhost:25 asked at 127.0.0.1:25 port-25 "tcp://localhost:25"`,
		`localhost:99 asked at 127.0.0.1:99 port-99 "tcp://localhost:99"`,
		`127.0.0.2:98 port-98 "tcp://127.0.0.2:98"`,
	})
}

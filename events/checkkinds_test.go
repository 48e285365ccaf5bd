package events_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func quoted(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string is never refused
	return b
}

func TestCheckKindSamples(t *testing.T) {
	for _, k := range events.CheckKinds() {
		t.Run(k.Scheme, func(t *testing.T) {
			is := is.New(t)
			r := events.Registration{ID: "a", Host: "web01", URL: quoted(k.Sample), Origin: "file:a.json"}
			is.NoErr(r.ValidateStrict())
			is.Equal(r.Local(), k.Local)
			if k.Local {
				r.Pool = "default"
				is.Equal(r.PoolName(), "@web01") // whatever it says
			}
		})
	}
}

func TestValidateKinds(t *testing.T) {
	for url, want := range map[string]string{
		`"tcp://db"`:                                         "not an address such as tcp://",
		`"tls://x"`:                                          "not an address",
		`"dns://192.0.2.53/"`:                                "not an address",
		`"dns:///www.example.com"`:                           "",
		`"icmp:///"`:                                         "not an address",
		`"icmp://[2001:db8::1]"`:                             "",
		`"grpc://h/x"`:                                       "not an address",
		`"nats:///$SRV.PING"`:                                "",
		`"nats:///orders.ping"`:                              "",
		`"nats:///megaphone.commit.host.web01"`:              "worker's own connection",
		`"nats:///MEGAPHONE.x"`:                              "worker's own connection",
		`"nats:///$JS.API.STREAM.DELETE.CHANGES"`:            "worker's own connection",
		`"nats:///$KV.LEASES.a.1"`:                           "worker's own connection",
		`"nats:///_INBOXR.x"`:                                "worker's own connection",
		`"nats:///a.*"`:                                      "not a subject",
		`"nats:///a..b"`:                                     "not a subject",
		`"nats:///"`:                                         "not a subject",
		`"nats://h:4222/$JS.API.INFO"`:                       "",
		`{"addr":"http://h/","expect_code":"2xx,301"}`:       "",
		`{"addr":"http://h/","expect_code":[200,"204-206"]}`: "",
		`{"addr":"http://h/","expect_code":"20x"}`:           "no code",
		`{"addr":"http://h/","expect_code":1e300}`:           "no code",
		`{"addr":"http://h/","expect_body":"("}`:             "expect_body",
		`{"addr":"http://h/","expect_body":"` + strings.Repeat("a", 600) + `"}`:            "512 are allowed",
		`{"addr":"http://h/","expect_body":"` + strings.Repeat(`[a-z]{900}`, 10) + `"}`:    "repeats too much",
		`{"addr":"http://h/","method":"GET\r\nX: y"}`:                                      "no method",
		`{"addr":"http://h/","method":5}`:                                                  "url",
		`{"addr":"http://h/","headers":{"X":"a\r\nY: b"}}`:                                 "no header",
		`{"addr":"http://h/","expectcode":200}`:                                            `has no "expectcode"`,
		`{"addr":"tcp://h:1","expect_code":200}`:                                           "kind tcp has no",
		`{"addr":"http://h/","credentials":"../bus.creds"}`:                                "not the name of a file",
		`{"addr":"http://h/","credentials":"/etc/shadow"}`:                                 "not the name of a file",
		`{"addr":"http://h/","ca":".."}`:                                                   "not the name of a file",
		`{"addr":"https://h/","client_cert":"a b"}`:                                        "not the name of a file",
		`{"addr":"https://h/","cert_warning_days":-1}`:                                     "cert_warning_days",
		`{"addr":"http://h/","dialect":"x"}`:                                               "none of megaphone",
		`{"addr":"icmp://h","count":1000}`:                                                 "count",
		`"exec:relative"`:                                                                  "over the network",
		`{"addr":"http://h/","credentials":"api","method":"POST","body":"x","ca":"a.pem"}`: "",
	} {
		t.Run(url, func(t *testing.T) {
			is := is.New(t)
			err := events.Registration{ID: "a", Host: "web01", URL: json.RawMessage(url), Origin: "http"}.ValidateStrict()
			if want == "" {
				is.NoErr(err)
				return
			}
			is.True(err != nil && strings.Contains(err.Error(), want)) // says what is wrong
		})
	}
}

// Nobody registers a local check over the network, however it is written.
func TestLocalKindsOverTheNetwork(t *testing.T) {
	for _, origin := range []string{"http", "nats", "cli", "cache", "push", "", "File:x", " file:x", "http file:"} {
		for _, addr := range []string{
			"exec:/bin/sh", "exec:///bin/sh", "EXEC:///bin/sh", "eXeC:/bin/sh", "process:x", "PROCESS:x", "systemd:ssh.service", "exec://h/bin/sh", "exec:",
		} {
			for _, url := range []string{string(quoted(addr)), fmt.Sprintf(`{"addr":%q}`, addr), fmt.Sprintf(`{"a":1,"addr":"http://x/","addr":%q}`, addr), fmt.Sprintf(`{"\u0061ddr":%q}`, addr)} {
				is := is.New(t)
				r := events.Registration{ID: "a", Host: "web01", URL: json.RawMessage(url), Origin: origin, Pool: "default"}
				is.True(errors.Is(r.Validate(), events.ErrLocal))       // POST /checks, and what lies on the bus
				is.True(errors.Is(r.ValidateStrict(), events.ErrLocal)) // everything else
			}
		}
		is := is.New(t)
		r := events.Registration{ID: "a", Host: "web01", URL: json.RawMessage(`"file:///etc/passwd"`), Origin: origin}
		is.NoErr(r.Validate()) // as the original; workers do not open it
		is.True(errors.Is(r.ValidateStrict(), events.ErrLocal))
	}
}

func TestOptionsOfATarget(t *testing.T) {
	is := is.New(t)
	r := events.Registration{ID: "a", URL: json.RawMessage(`{"addr":"http://x/","team":1,"method":"POST","expect_code":"2xx"}`)}
	target, err := r.Target()
	is.NoErr(err)
	is.Equal(target.Options, `{"expect_code":"2xx","method":"POST"}`)
	o, err := target.ParseOptions()
	is.NoErr(err)
	is.Equal(o.Method, "POST")
	is.True(o.ExpectCode.Contains(299) && !o.ExpectCode.Contains(300))
	is.Equal(o.ExpectCode.String(), "200-299")
}

// The document of kinds names every kind and every option.
func TestKindsAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/checks.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.SplitSeq(string(b), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for scheme := range strings.SplitSeq(cells[1], ",") {
			rows[strings.Trim(scheme, " `")] += line
		}
	}
	for _, k := range events.CheckKinds() {
		for _, option := range k.Options {
			row := rows[k.Scheme]
			if strings.Contains(row, "as `tls`") {
				row += rows["tls"]
			}
			if strings.Contains(row, "as `tcp`") {
				row += rows["tcp"]
			}
			if strings.Contains(row, "`expect_body`") && option == "body" {
				row += "`body`"
			}
			if !strings.Contains(row, "`"+option) {
				t.Errorf("docs/checks.md: the row of %s does not name %s", k.Scheme, option)
			}
		}
	}
}

package pollers_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
)

// Documents as the libraries' own documentation and code give them.
const (
	healthFail = `{"status":"fail","version":"1","output":"see checks","checks":{"cassandra:responseTime":[{"componentId":"a","status":"fail","output":"timeout"},{"status":"pass"}],"uptime":[{"status":"pass"}],"cpu:utilization":[{"status":"warn"}]}}`
	bootDown   = `{"status":"DOWN","components":{"db":{"status":"DOWN","details":{"error":"x"}},"diskSpace":{"status":"UP"},"ping":{"status":"UP"}}}`
	microDown  = `{"status":"DOWN","checks":[{"name":"db","status":"DOWN","data":{}},{"name":"live","status":"UP"}]}`
	healthGo   = `{"status":"Partially Available","timestamp":"2017-01-01T00:00:00.413567856+033:00","failures":{"rabbitmq":"Failed during rabbitmq health check"},"system":{"version":"go1.8","goroutines_count":4},"component":{"name":"myservice","version":"v1.0"}}`
	sundheit   = `{"fail":{"message":"","error":{"message":"failed during initial health check"},"timestamp":"2019-01-01T00:00:00Z","num_failures":1,"contiguousFailures":1,"first_failure_at":"2019-01-01T00:00:00Z"},"pass":{"message":"ok","timestamp":"2019-01-01T00:00:00Z","contiguousFailures":0,"timeOfFirstFailure":null}}`
	goss       = `{"results":[{"resource-id":"tcp:22","resource-type":"Port","property":"listening","successful":false},{"resource-id":"sshd","resource-type":"Service","property":"running","successful":true}],"summary":{"failed-count":1,"summary-line":"Count: 2, Failed: 1, Skipped: 0","test-count":2,"total-duration":1}}`
)

func TestDialects(t *testing.T) {
	const json, health, boot = "application/json", "application/health+json", "application/vnd.spring-boot.actuator.v3+json;charset=UTF-8"
	for name, tt := range map[string]struct {
		code       int
		kind, body string
		want       string
	}{
		"health pass":                   {200, health, `{"status":"pass"}`, "OK pass"},
		"health UP, by type":            {200, health, `{"status":"UP","output":"fine"}`, "OK UP; fine"},
		"health warn, by shape":         {200, json, `{"status":"warn","output":"disk"}`, "Warning warn; disk"},
		"health fail":                   {503, health, healthFail, "Critical fail: cassandra:responseTime fail (timeout), cpu:utilization warn; see checks"},
		"health pass with 503":          {503, health, `{"status":"pass"}`, "Critical answered 503 Service Unavailable; pass"},
		"health error, by type":         {500, health, `{"status":"error"}`, "Critical error"},
		"the original's wins":           {200, health, `{"status":"OK","message":"m"}`, "OK m"},
		"the original's wins, Critical": {200, boot, `{"status":"Critical","message":"m"}`, "Critical m"},
		"the original's with 503":       {503, json, `{"status":"OK","message":"m"}`, "Critical timeout connecting to URL"},
		"actuator up":                   {200, boot, `{"status":"UP"}`, "OK UP"},
		"actuator, by shape":            {503, json, bootDown, "Critical DOWN: db DOWN"},
		"actuator out of service":       {503, boot, `{"status":"OUT_OF_SERVICE"}`, "Critical OUT_OF_SERVICE"},
		"actuator unknown":              {200, json, `{"status":"UNKNOWN"}`, "Unknown UNKNOWN"},
		"actuator, its own word":        {200, boot, `{"status":"FATAL"}`, "Unknown FATAL"},
		"microprofile":                  {503, json, microDown, "Critical DOWN: db DOWN"},
		"microprofile up":               {200, json, `{"status":"UP","checks":[]}`, "OK UP"},
		"aspnet":                        {200, "text/plain", "Degraded\n", "Warning Degraded"},
		"aspnet, unhealthy":             {503, "text/plain", "Unhealthy", "Critical Unhealthy"},
		"health-go":                     {200, json, healthGo, "Warning Partially Available: rabbitmq"},
		"health-go, gone":               {503, json, `{"status":"Unavailable","failures":{"a":"x","b":"y"}}`, "Critical Unavailable: a, b"},
		"up":                            {200, json, `{"status":"up","details":{"db":{"status":"up"}}}`, "OK up"},
		"down":                          {503, json, `{"status":"down","details":{"db":{"status":"down","error":"x"},"q":{"status":"up"}}}`, "Critical down: db down"},
		"sundheit":                      {503, json, sundheit, "Critical 1 of 2 checks fail: fail"},
		"sundheit, short":               {200, json, `{"a":"PASS","b":"PASS"}`, "OK 2 checks pass"},
		"goss":                          {503, json, goss, "Critical 2 tests, 1 failed: Port tcp:22 listening"},
		"goss, good":                    {200, json, `{"results":[],"summary":{"failed-count":0,"test-count":0}}`, "OK 0 tests, 0 failed"},
		"many":                          {200, json, `{"status":"Partially Available","failures":{` + many(30) + `}}`, "and 20 more"},
		"lower case ok is nothing":      {200, json, `{"status":"ok"}`, "Critical ERROR: status value 'ok' not valid!"},
		"FAIL is nothing":               {200, json, `{"status":"FAIL"}`, "Critical ERROR: status value 'FAIL' not valid!"},
		"empty":                         {200, json, `{}`, "Critical No status was found on given path!"},
		"other text":                    {200, "text/plain", "Healthy!", "Critical timeout connecting to URL"},
		"a list of checks":              {200, json, `{"status":"UP","components":[1,null,{"status":7}]}`, "OK UP"},
		"strange checks":                {200, health, `{"status":"fail","checks":{"a":[null,{"status":{}}],"b":7}}`, "Critical fail"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.kind)
				w.WriteHeader(tt.code)
				io.WriteString(w, tt.body)
			})
			f := look(t, s.URL)
			t.Log(says(f))
			is.True(strings.Contains(strings.ReplaceAll(says(f), s.URL, "URL"), tt.want))
			is.Equal(look(t, object{"addr": s.URL, "statusoverride": "Warning"}).Message, "NOTICE: statusoverride used!")
		})
	}
}

func many(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`"f%02d":"x"`, i))
	}
	return strings.Join(list, ",")
}

// A path asks for one word of a document: no dialect may interfere.
func TestPathBeforeDialect(t *testing.T) {
	is := is.New(t)
	s := serve(t, text(`{"status":"DOWN","components":{},"mine":"OK"}`))
	is.Equal(says(look(t, object{"addr": s.URL, "jsonpath": "mine"})), "OK Status from path mine: OK")
	is.Equal(says(look(t, object{"addr": s.URL, "jsonpath": "none"})), "Critical error collecting results from addr: "+s.URL+", jsonpath: none")
}

func TestExpectations(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/page":
			w.Header().Set("X-Version", "1.2")
			io.WriteString(w, "<html>Welcome</html>")
		case "/doc":
			io.WriteString(w, `{"status":"Warning","message":"slow"}`)
		case "/up":
			io.WriteString(w, `{"status":"UP"}`)
		case "/404":
			http.NotFound(w, r)
		case "/moved":
			http.Redirect(w, r, "/page", http.StatusMovedPermanently)
		case "/big":
			io.WriteString(w, strings.Repeat("x", 100_000)+"end")
		case "/echo":
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s %s %s %s", r.Method, b, r.Host, r.Header.Get("X-A"), r.UserAgent())
		}
	})
	for name, tt := range map[string]struct {
		url  object
		want string
	}{
		"a code":           {object{"addr": "/page", "expect_code": 200}, "OK answered 200 OK"},
		"another":          {object{"addr": "/404", "expect_code": "2xx,301"}, "Critical answered 404 Not Found, expected 200-299,301"},
		"404 is fine":      {object{"addr": "/404", "expect_code": []any{404, "5xx"}}, "OK answered 404 Not Found"},
		"moved":            {object{"addr": "/moved", "expect_code": 301}, "OK answered 301 Moved Permanently"},
		"moved, followed":  {object{"addr": "/moved", "expect_code": 200}, "OK answered 200 OK"},
		"by code alone":    {object{"addr": "/doc", "dialect": "code"}, "OK answered 200 OK"},
		"404 by code":      {object{"addr": "/404", "dialect": "code"}, "Critical answered 404 Not Found, expected 200-299"},
		"a body":           {object{"addr": "/page", "expect_body": "Welc.me"}, "OK answered 200 OK"},
		"another body":     {object{"addr": "/page", "expect_body": "^Welcome"}, `Critical the body does not match "^Welcome"`},
		"a document too":   {object{"addr": "/doc", "expect_body": "slow"}, "Warning slow"},
		"both are wrong":   {object{"addr": "/doc", "expect_body": "fast"}, `Critical the body does not match "fast"; slow`},
		"a header":         {object{"addr": "/page", "expect_header": object{"x-version": `^1\.`}}, "OK answered"},
		"another header":   {object{"addr": "/page", "expect_header": object{"X-Version": "^2"}}, `Critical the header X-Version is "1.2", which does not match "^2"`},
		"no header":        {object{"addr": "/page", "expect_header": object{"X-None": ""}}, "Critical there is no header X-None"},
		"asked otherwise":  {object{"addr": "/echo", "method": "POST", "body": "b=1", "headers": object{"X-A": "a", "host": "www.example.com"}, "expect_body": "^POST b=1 www.example.com a megaphone/devel$"}, "OK "},
		"dialect, forced":  {object{"addr": "/up", "dialect": "actuator"}, "OK UP"},
		"in another":       {object{"addr": "/up", "dialect": "goss"}, "Critical the answer is not in the dialect goss"},
		"only original's":  {object{"addr": "/up", "dialect": "megaphone"}, "Critical ERROR: status value 'UP' not valid!"},
		"big, by code":     {object{"addr": "/big", "expect_code": 200}, "OK answered 200 OK"},
		"no document":      {object{"addr": "/page", "method": "GET"}, "Critical timeout connecting to"},
		"nobody":           {object{"addr": "http://127.0.0.1:1/", "expect_code": 200}, "Critical connect to 127.0.0.1:1: connect: connection refused"},
		"metadata":         {object{"addr": "http://169.254.169.254/", "expect_code": 200, "headers": object{"Metadata-Flavor": "Google"}}, "is not polled"},
		"override":         {object{"addr": "/404", "expect_code": 200, "statusoverride": "Warning"}, "Warning NOTICE"},
		"no credentials":   {object{"addr": "/page", "credentials": "none"}, `Critical credentials: "none": there is no such file`},
		"certificate of -": {object{"addr": "/doc", "cert_warning_days": 30}, "Warning slow"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			if path := tt.url["addr"].(string); strings.HasPrefix(path, "/") {
				tt.url["addr"] = s.URL + path
			}
			f := look(t, tt.url)
			t.Log(says(f), string(f.Document))
			is.True(strings.Contains(says(f), tt.want))
		})
	}
}

func TestCredentials(t *testing.T) {
	var elsewhere *httptest.Server
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, elsewhere.URL+"/", http.StatusFound)
			return
		}
		fmt.Fprintf(w, "[%s]", r.Header.Get("Authorization"))
	})
	elsewhere = serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "[%s]", r.Header.Get("Authorization")) })
	upper := strings.Replace(s.URL, "http", "HTTP", 1)
	conf := pollers.Config{Credentials: secretsDir(t, map[string]string{
		"bearer": `{"for":["` + upper + `"],"bearer":"tok"}`,
		"basic":  `{"for":["https://x","` + s.URL + `/path"],"username":"u","password":"p"}`,
		"other":  `{"for":["https://api.example.com"],"bearer":"hush"}`,
		"none":   `{"bearer":"hush"}`,
		"junk":   `hush`,
	})}
	for name, tt := range map[string]struct{ file, path, expect, want string }{
		"bearer":                {"bearer", "/", `^\[Bearer tok\]$`, "OK "},
		"basic":                 {"basic", "/", `^\[Basic dTpw\]$`, "OK "},
		"not sent on elsewhere": {"bearer", "/away", `^\[\]$`, "OK "},
		"of another service":    {"other", "/", "", `may not be sent to http://127.0.0.1:`},
		"that say nobody":       {"none", "/", "", `may not be sent to`},
		"that are none":         {"junk", "/", "", `"junk" does not hold`},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := lookAs(t, conf, object{"addr": s.URL + tt.path, "credentials": tt.file, "expect_body": tt.expect})
			t.Log(says(f))
			is.True(strings.Contains(says(f), tt.want))
			is.True(!strings.Contains(says(f), "hush"))
			is.Equal(f.Status == events.OK, tt.want == "OK ")
		})
	}
}

// Proxies pass a request on by its header Host: credentials are not sent to a name
// that they do not say.
func TestCredentialsAndHost(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "[%s %s]", r.Host, r.Header.Get("Authorization"))
	})
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.URL, "http://"))
	must(t, err)
	conf := pollers.Config{Credentials: secretsDir(t, map[string]string{
		"token": `{"for":["` + s.URL + `","http://shop.example.com:` + port + `"],"bearer":"hush"}`,
	})}
	for host, want := range map[string]string{
		"shop.example.com":         "OK ",
		"shop.example.com:" + port: "OK ",
		"SHOP.example.com":         "OK ",
		"127.0.0.1":                "OK ",
		"evil.example.org":         "may not be sent to http://evil.example.org:",
		"[::1]":                    "may not be sent to http://[::1]:",
	} {
		t.Run(host, func(t *testing.T) {
			is := is.New(t)
			f := lookAs(t, conf, object{"addr": s.URL, "credentials": "token", "headers": object{"host": host}, "expect_body": `hush\]$`})
			t.Log(says(f))
			is.True(strings.Contains(says(f), want))
			is.Equal(f.Status == events.OK, want == "OK ")
		})
	}
}

// A server that renews its certificate while connections are kept is seen to.
func TestHTTPSRenewedCertificate(t *testing.T) {
	is := is.New(t)
	a := newAuthority(t)
	var shown atomic.Pointer[tls.Certificate]
	show := func(days int) { pair := a.pair(time.Duration(days)*24*time.Hour + time.Minute); shown.Store(&pair) }
	show(10)
	s := httptest.NewUnstartedServer(text(okDocument))
	s.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{*shown.Load()}}, nil
	}}
	s.StartTLS()
	t.Cleanup(s.Close)
	kinds, done := pollers.KindsOf(pollers.Config{Credentials: secretsDir(t, map[string]string{"ca.pem": string(a.pem())})})
	defer done()
	plain := events.Target{Addr: s.URL, Options: `{"ca":"ca.pem"}`}
	asked := events.Target{Addr: s.URL, Options: `{"ca":"ca.pem","cert_warning_days":30}`}
	is.Equal(says(kinds.Check(t.Context(), plain)), "OK fine") // keeps its connection
	is.True(strings.HasPrefix(says(kinds.Check(t.Context(), asked)), "Warning the certificate expires in 10 days"))
	show(90)
	is.Equal(says(kinds.Check(t.Context(), asked)), "OK fine")
}

// A server may end a kept connection at the moment in which a request is sent.
// One that may not be sent twice has one of its own: there is no false alarm.
func TestHTTPKeepsNoConnectionForPosts(t *testing.T) {
	is := is.New(t)
	var posts atomic.Int32
	at := listen(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		for i := range 2 {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			if posts.Add(1); i > 0 {
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(okDocument), okDocument)
			if r.Close {
				return
			}
		}
	})
	kinds, done := pollers.KindsOf(pollers.Config{})
	defer done()
	for range 3 {
		f := kinds.Check(t.Context(), events.Target{Addr: "http://" + at, Options: `{"method":"POST","body":"x"}`})
		is.Equal(says(f), "OK fine")
	}
	is.Equal(posts.Load(), int32(3))
}

func TestHTTPSOptions(t *testing.T) {
	is := is.New(t)
	a := newAuthority(t)
	s := httptest.NewUnstartedServer(text(okDocument))
	s.TLS = tlsOf(a, 10)
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	t.Cleanup(s.Close)
	conf := pollers.Config{Credentials: secretsDir(t, map[string]string{"ca.pem": string(a.pem())})}
	f := lookAs(t, conf, object{"addr": s.URL, "ca": "ca.pem"})
	is.Equal(says(f), "OK fine") // how long the certificate is good for was not asked
	f = lookAs(t, conf, object{"addr": s.URL, "ca": "ca.pem", "cert_warning_days": 30, "cert_critical_days": 5})
	is.True(strings.HasPrefix(says(f), "Warning the certificate expires in 10 days"))
	f = lookAs(t, conf, object{"addr": s.URL, "ca": "ca.pem", "cert_critical_days": 12})
	is.True(strings.HasPrefix(says(f), "Critical the certificate expires in 10 days"))
	f = lookAs(t, conf, object{"addr": s.URL, "expect_code": 200})
	is.True(strings.Contains(says(f), "Critical ") && strings.Contains(says(f), "unknown authority"))
	f = lookAs(t, conf, object{"addr": s.URL, "ca": "ca.pem", "server_name": "elsewhere"})
	is.True(strings.Contains(says(f), "not elsewhere"))
}

// FuzzRecognise demands that what is read of any answer can be shown.
func FuzzRecognise(f *testing.F) {
	for _, body := range []string{healthFail, bootDown, microDown, healthGo, sundheit, goss, "Healthy", `{"status":{}}`, `{"a":"PASS"}`} {
		for _, name := range append([]string{""}, events.Dialects...) {
			f.Add("application/health+json", []byte(body), name)
		}
	}
	f.Fuzz(func(t *testing.T, kind string, body []byte, name string) {
		r, ok := pollers.Recognise(kind, body, name)
		if _, err := events.ParseStatus(r.Status.String()); err != nil || ok && r.Message == "" {
			t.Fatalf("%v %q", err, r.Message)
		}
	})
}

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// sample reads a sample of deploy and puts others in the place of some words,
// each of which must be there.
func sample(t *testing.T, name string, oldnew ...string) string {
	t.Helper()
	b, err := os.ReadFile("../../deploy/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(string(b), oldnew[i]) {
			t.Fatalf("%s does not hold %q", name, oldnew[i])
		}
	}
	return strings.NewReplacer(oldnew...).Replace(string(b))
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// nginx gives work to the application while Megaphone lets it, and lets others
// read from Megaphone but not write.
func TestNginxFollows(t *testing.T) {
	is := is.New(t)
	nginx := real(t, "nginx")
	svc := newServices(t)
	svc.Set("app", events.OK)
	p := serve(t, t.TempDir(), "--interval", "1s")
	p.must("POST", "/checks", `{"id":"app","url":"`+svc.URL+`/app"}`, http.StatusOK)

	dir, front, reads := t.TempDir(), freeAddress(t), freeAddress(t)
	site := write(t, filepath.Join(dir, "megaphone.conf"), sample(t, "nginx.conf", "/var/cache/nginx/", dir+"/", "listen 80;", "listen "+front+";",
		"listen 18080;", "listen "+reads+";", "127.0.0.1:8080", strings.TrimPrefix(svc.URL, "http://"), "http://127.0.0.1:18001", p.Ready.HTTP))
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;\n" // the directory is the test's alone
	}
	config := write(t, filepath.Join(dir, "nginx.conf"), user+"daemon off; master_process off; pid "+dir+"/pid;\nevents {}\nhttp {\n  access_log "+dir+"/access;\n"+
		"  client_body_temp_path "+dir+"/body;\n  proxy_temp_path "+dir+"/proxy;\n  fastcgi_temp_path "+dir+"/f;\n  uwsgi_temp_path "+dir+"/u;\n"+
		"  scgi_temp_path "+dir+"/s;\n  include "+site+";\n}\n")
	code, out := runProgram(t, nginx, "-t", "-q", "-e", "stderr", "-c", config)
	is.Equal(out, "")
	is.Equal(code, 0)
	background(t, nginx, "-e", "stderr", "-c", config)
	answers := func(want int) {
		t.Helper()
		eventually(t, 20*time.Second, fmt.Sprintf("nginx answers %d", want), func() error { return getsCode("http://"+front+"/app", want) })
	}
	answers(http.StatusOK)
	svc.Set("app", events.Critical)
	answers(http.StatusServiceUnavailable)
	svc.Set("app", events.Warning)
	answers(http.StatusOK)

	is.NoErr(getsCode("http://"+reads+"/hosts/web01", http.StatusOK))
	for _, method := range []string{"PUT", "POST", "DELETE"} {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+reads+"/checks/app", nil)
		is.NoErr(err)
		res, err := http.DefaultClient.Do(req)
		is.NoErr(err)
		is.NoErr(res.Body.Close())
		is.Equal(res.StatusCode, http.StatusForbidden)
	}
	is.NoErr(getsCode("http://"+reads+"/compat/healthchecks/no-such-token", http.StatusNotFound))
	is.NoErr(getsCode("http://"+front+"/-/megaphone", http.StatusNotFound)) // is for nginx alone

	// Events come as they happen.
	res, err := http.Get("http://" + reads + "/events?type=" + events.TypeHostChanged)
	is.NoErr(err)
	defer res.Body.Close()
	svc.Set("app", events.Critical)
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "data:") {
	}
	is.True(strings.Contains(lines.Text(), `"Critical"`))

	// Megaphone that is away takes nobody out: what it said last holds.
	svc.Set("app", events.OK)
	answers(http.StatusOK)
	p.Kill()
	for range 3 {
		is.NoErr(getsCode("http://"+front+"/app", http.StatusOK))
	}
}

func getsCode(url string, want int) error {
	res, err := http.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		text, err := io.ReadAll(res.Body)
		return errors.Join(fmt.Errorf("%s answers %d %s", url, res.StatusCode, text), err)
	}
	return nil
}

// Nagios takes the sample, and its commands exit as they have to.
func TestNagiosSample(t *testing.T) {
	is := is.New(t)
	nagios := real(t, "nagios4")
	dir := t.TempDir()
	text := sample(t, "nagios/megaphone.cfg")
	objects := write(t, filepath.Join(dir, "megaphone.cfg"), text)
	around := write(t, filepath.Join(dir, "around.cfg"), `
define timeperiod {
  timeperiod_name 24x7
  alias all
  monday 00:00-24:00
}
define command {
  command_name tell
  command_line /bin/true
}
define contact {
  contact_name root
  host_notification_period 24x7
  service_notification_period 24x7
  host_notification_commands tell
  service_notification_commands tell
}
define contactgroup {
  contactgroup_name admins
  alias admins
  members root
}
`)
	main := write(t, filepath.Join(dir, "nagios.cfg"), strings.ReplaceAll(`nagios_user=`+whoami()+`
nagios_group=`+whoami()+`
log_file=DIR/log
cfg_file=`+objects+`
cfg_file=`+around+`
object_cache_file=DIR/objects.cache
status_file=DIR/status
temp_path=DIR
temp_file=DIR/temp
check_result_path=DIR
command_file=DIR/cmd
lock_file=DIR/lock
illegal_macro_output_chars=`+"`~$&|'\"<>"+`
`, "DIR", dir))
	code, out := runProgram(t, nagios, "-v", main)
	t.Log(out)
	is.Equal(code, 0)
	is.True(strings.Contains(out, "Total Warnings: 0"))

	p := serve(t, t.TempDir())
	p.must("PUT", "/hosts/web02/checks/queue%2Fdepth", `{"ttl":"1h"}`, http.StatusCreated)
	p.must("PUT", "/hosts/web02/checks/queue%2Fdepth/status", `{"status":"Warning","message":"910"}`, http.StatusNoContent)
	eventually(t, 10*time.Second, "the push shows", func() error {
		return getsCode(p.Ready.HTTP+"/lb/web02?warning=fail", http.StatusServiceUnavailable)
	})
	commands := regexp.MustCompile(`command_line +/usr/bin/megaphone (.*)`).FindAllStringSubmatch(text, -1)
	is.Equal(len(commands), 3)
	for i, want := range []int{3, 1, 1} { // web01 has no checks
		line := strings.NewReplacer("$HOSTADDRESS$", "127.0.0.1", "$ARG1$", "127.0.0.1", "$ARG2$", "web02", "$ARG3$", "queue/depth").Replace(commands[i][1])
		code, out := runProgram(t, "sh", "-c", "megaphone "+line+" -p "+port(t, p.Ready.HTTP))
		t.Log(line, out)
		is.Equal(code, want)
	}
}

// Icinga 2 takes the sample, and makes services of it.
func TestIcingaSample(t *testing.T) {
	is := is.New(t)
	icinga := real(t, "icinga2")
	dir := t.TempDir()
	config := write(t, filepath.Join(dir, "icinga2.conf"), `
const NodeName = "test"
include <itl>
`+sample(t, "nagios/icinga2.conf")+`
object Host "web01" {
  check_command = "dummy"
  address = "192.0.2.11"
  vars.megaphone = true
  vars.megaphone_checks["queue/depth"] = { megaphone_check = "queue/depth" }
}
`)
	code, out := runProgram(t, icinga, "daemon", "-C", "-c", config, "-D", "DataDir="+dir, "-D", "CacheDir="+dir, "-D", "LogDir="+dir, "-D", "InitRunDir="+dir,
		"-D", "RunAsUser="+whoami(), "-D", "RunAsGroup="+whoami())
	t.Log(out)
	is.Equal(code, 0)
	is.True(strings.Contains(out, "Instantiated 2 Services"))
}

func whoami() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return os.Getenv("USER")
}

// probes returns the values of a key, wherever it stands.
func probes(v any, key string) (found []map[string]any) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			if m, ok := inner.(map[string]any); ok && k == key {
				found = append(found, m)
			}
			found = append(found, probes(inner, key)...)
		}
	case []any:
		for _, inner := range v {
			found = append(found, probes(inner, key)...)
		}
	}
	return found
}

func documents(t *testing.T, name string) (docs []any) {
	t.Helper()
	for text := range strings.SplitSeq(sample(t, name), "\n---\n") {
		var doc any
		if err := yaml.UnmarshalStrict([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		docs = append(docs, doc)
	}
	return docs
}

// The requests of Kubernetes, Envoy and the balancers of AWS, on the paths that
// the samples name, are answered as those programs read them.
func TestOrchestratorSamples(t *testing.T) {
	is := is.New(t)
	p := serve(t, t.TempDir())
	p.must("PUT", "/checks/db/status", `{"status":"OK"}`, http.StatusNoContent)
	eventually(t, 10*time.Second, "the push shows", func() error { return getsCode(p.Ready.HTTP+"/lb?unknown=fail", http.StatusOK) })

	kube, envoy := documents(t, "kubernetes.yaml"), documents(t, "envoy.yaml")
	is.Equal(len(kube), 2)
	for _, doc := range kube {
		is.True(doc.(map[string]any)["kind"] != nil && doc.(map[string]any)["apiVersion"] == map[string]string{"Deployment": "apps/v1", "Service": "v1"}[doc.(map[string]any)["kind"].(string)])
	}
	type request struct{ path, agent, host string }
	var process, host []request
	for _, g := range probes(kube, "httpGet") {
		r := request{g["path"].(string), "kube-probe/1.30", "10.1.2.3:18001"}
		if strings.HasPrefix(r.path, "/lb") {
			host = append(host, r)
		} else {
			process = append(process, r)
		}
	}
	for _, g := range probes(envoy, "http_health_check") {
		host = append(host, request{g["path"].(string), "Envoy/HC", "app"})
	}
	host = append(host, request{"/lb", "ELB-HealthChecker/2.0", "10.1.2.3:18001"})
	is.Equal([]int{len(process), len(host)}, []int{2, 3})
	code := func(r request) (int, http.Header) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", p.Ready.HTTP+r.path, nil)
		is.NoErr(err)
		req.Host = r.host
		req.Header.Set("User-Agent", r.agent)
		req.Header.Set("Accept", "*/*")
		req.Close = true
		res, err := http.DefaultClient.Do(req)
		is.NoErr(err)
		is.NoErr(res.Body.Close())
		return res.StatusCode, res.Header
	}
	all := func(requests []request, want int, header string) {
		t.Helper()
		for _, r := range requests {
			got, h := code(r)
			is.Equal(got, want) // of r
			if header != "" && h.Get(header) != "true" {
				t.Errorf("%s: no %s", r.path, header)
			}
		}
	}
	all(host, 200, "")
	p.must("PUT", "/checks/db/status", `{"status":"Warning"}`, http.StatusNoContent)
	all(host, 200, "X-Envoy-Degraded")
	p.must("PUT", "/checks/db/status", `{"status":"Critical"}`, http.StatusNoContent)
	all(host, 503, "")
	all(process, 200, "") // whatever the checks say
	p.must("PUT", "/hosts/web01/override", `{"maintenance":true,"until":"1h"}`, http.StatusOK)
	all(host, 503, "X-Envoy-Immediate-Health-Check-Fail")

	// The arguments of the pod's container are ones that megaphone takes.
	for _, doc := range kube {
		for _, args := range regexp.MustCompile(`args:\[([^\]]*)\]`).FindAllStringSubmatch(strings.ReplaceAll(fmt.Sprint(doc), "args: ", "args:"), -1) {
			words := strings.Fields(args[1])
			is.Equal(words[0], "serve")
			flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
			Default().bind(flags, allParts)
			is.NoErr(flags.Parse(words[1:]))
		}
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

const prometheusDir = "../../deploy/prometheus/"

// promtool has nothing to say against the metrics, in both places.
func TestMetricsAreClean(t *testing.T) {
	is := is.New(t)
	promtool := real(t, "promtool")
	p := serve(t, t.TempDir())
	p.must("PUT", "/hosts/web01/checks/a%20b", `{"ttl":"1h"}`, http.StatusCreated)
	p.must("PUT", "/hosts/web01/checks/a%20b/status", `{"status":"Warning"}`, http.StatusNoContent)
	for _, path := range []string{"/metrics", "/metrics/hosts"} {
		cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
		cmd.Stdin = strings.NewReader(p.must("GET", path, "", http.StatusOK))
		out, err := cmd.CombinedOutput()
		is.Equal(string(out), "") // of path
		is.NoErr(err)
	}
}

// The sample configuration and the rules are valid, and the rules' own tests hold.
func TestPrometheusSamples(t *testing.T) {
	is := is.New(t)
	promtool := real(t, "promtool")
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"}, {"check", "rules", "megaphone.rules.yml"}, {"test", "rules", "megaphone.test.yml"},
	} {
		args[2] = prometheusDir + args[2]
		code, out := runProgram(t, append([]string{promtool}, args...)...)
		t.Log(out)
		is.Equal(code, 0)
	}
	rules, err := os.ReadFile(prometheusDir + "megaphone.rules.yml")
	is.NoErr(err)
	tests, err := os.ReadFile(prometheusDir + "megaphone.test.yml")
	is.NoErr(err)
	for _, m := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(string(rules), -1) {
		is.True(strings.Contains(string(tests), "alertname: "+m[1]+"\n")) // each alert is seen firing
	}
}

// prometheus is a real one on loopback, with the samples' rules and configuration.
type prometheus struct {
	t   *testing.T
	url string
}

// startPrometheus runs one that scrapes p, and often, by the sample configuration.
func startPrometheus(t *testing.T, p *process) prometheus {
	t.Helper()
	program := real(t, "prometheus")
	dir := t.TempDir()
	sample, err := os.ReadFile(prometheusDir + "prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(p.Ready.HTTP, "http://")
	config := regexp.MustCompile(`(?m)^  # (- |  )`).ReplaceAllString(string(sample), "  $1") // its jobs that are commented out
	config = strings.NewReplacer(
		"interval: 15s", "interval: 1s", "interval: 30s", "interval: 1s", `"web01.example.com:18001", "web02.example.com:18001"`, `"`+address+`"`,
		"megaphone.example.com:18001", address,
	).Replace(config)
	rules, err := os.ReadFile(prometheusDir + "megaphone.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"prometheus.yml": config, "megaphone.rules.yml": string(rules)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	own := freeAddress(t)
	background(t, program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+own, "--log.level=warn")
	m := prometheus{t, "http://" + own}
	m.eventually("all jobs are scraped", func() error {
		if n := len(m.query(`up{job=~"megaphone.*"} == 1`)); n != 3 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	return m
}

func (m prometheus) eventually(what string, holds func() error) {
	m.t.Helper()
	eventually(m.t, 30*time.Second, what, holds)
}

// get asks the API and reads its data into v; the answer may be no answer yet.
func (m prometheus) get(path string, v any) error {
	res, err := http.Get(m.url + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	out := struct {
		Status, Error string
		Data          any
	}{Data: v}
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		return err
	}
	if out.Status != "success" {
		return fmt.Errorf("%s: %s", path, out.Error)
	}
	return nil
}

// query returns the labels of what an expression selects now.
func (m prometheus) query(expr string) (found []map[string]string) {
	m.t.Helper()
	var data struct {
		Result []struct{ Metric map[string]string }
	}
	if err := m.get("/api/v1/query?query="+url.QueryEscape(expr), &data); err != nil {
		m.t.Log(err) // it may be starting
	}
	for _, r := range data.Result {
		found = append(found, r.Metric)
	}
	return found
}

// firing returns the alerts that fire.
func (m prometheus) firing() (names []string, err error) {
	var data struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	err = m.get("/api/v1/alerts", &data)
	for _, a := range data.Alerts {
		if a.State == "firing" {
			names = append(names, a.Labels["alertname"]+" "+a.Labels["host"])
		}
	}
	return names, err
}

func (m prometheus) fires(want ...string) {
	m.t.Helper()
	m.eventually(fmt.Sprintf("%v fires and nothing else", want), func() error {
		names, err := m.firing()
		if err == nil && fmt.Sprint(names) != fmt.Sprint(want) {
			err = fmt.Errorf("there are %v", names)
		}
		return err
	})
}

// A real Prometheus scrapes megaphone serve and fires the sample's alert when a
// service turns Critical, until it is OK again, and not in maintenance.
func TestPrometheusFires(t *testing.T) {
	is := is.New(t)
	real(t, "prometheus")
	svc := newServices(t)
	svc.Set("db", events.OK)
	p := serve(t, t.TempDir(), "--interval", "1s")
	p.must("POST", "/checks", `{"id":"db","url":"`+svc.URL+`/db"}`, http.StatusOK)
	m := startPrometheus(t, p)
	m.eventually("the check is OK there", func() error {
		if len(m.query(`megaphone_check_status{host="web01",check="db",status="ok"} == 1`)) < 2 { // by each job that tells of checks
			return errNotYet
		}
		return nil
	})
	m.fires()
	svc.Set("db", events.Critical)
	m.fires("MegaphoneHostCritical web01") // one, though several jobs tell of it
	m.eventually("/probe, found by /sd, tells of it", func() error {
		if len(m.query(`probe_success{job="megaphone-probe",instance="web01"} == 0`)) != 1 {
			return errNotYet
		}
		return nil
	})
	p.must("PUT", "/hosts/web01/override", `{"maintenance":true,"reason":"disk is being changed","until":"1h"}`, http.StatusOK)
	m.fires()
	p.must("DELETE", "/hosts/web01/override", "", http.StatusNoContent)
	m.fires("MegaphoneHostCritical web01")
	svc.Set("db", events.OK)
	m.fires()

	// Every expression of the dashboard is understood, and finds what is there.
	for title, exprs := range dashboard(t) {
		for _, expr := range exprs {
			expr = strings.ReplaceAll(expr, "$host", ".*")
			var data any
			is.NoErr(m.get("/api/v1/query?query="+url.QueryEscape(expr), &data))
			if !strings.Contains(expr, "== 1") || strings.HasPrefix(expr, "count") { // what is wrong now: nothing is
				if len(m.query(expr)) == 0 {
					t.Errorf("panel %q shows nothing: %s", title, expr)
				}
			}
		}
	}
}

// dashboard returns the expressions of the sample dashboard, by the titles of its panels.
func dashboard(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile("../../deploy/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Title, UID string
		Panels     []struct {
			ID      int
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	if d.Title == "" || d.UID == "" || len(d.Panels) == 0 {
		t.Fatal("it has no title, uid or panels")
	}
	exprs := map[string][]string{}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Type == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q: its id is taken, or it has no type or targets", p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			exprs[p.Title] = append(exprs[p.Title], target.Expr)
		}
	}
	return exprs
}

// What the dashboard and the rules ask for is what a scrape brings.
func TestMetricsThatAreAskedFor(t *testing.T) {
	is := is.New(t)
	p := serve(t, t.TempDir())
	p.must("PUT", "/hosts/web01/checks/a", `{"ttl":"1h"}`, http.StatusCreated)
	p.must("PUT", "/hosts/web01/checks/a/status", `{"status":"OK"}`, http.StatusNoContent)
	eventually(t, 10*time.Second, "the push shows", func() error {
		if p.check("a").Observed.IsZero() {
			return errNotYet
		}
		return nil
	})
	there := map[string]bool{}
	for _, path := range []string{"/metrics", "/metrics/hosts"} {
		for _, m := range regexp.MustCompile(`(?m)^(\w+)[ {]`).FindAllStringSubmatch(p.must("GET", path, "", http.StatusOK), -1) {
			there[m[1]] = true
		}
	}
	rules, err := os.ReadFile(prometheusDir + "megaphone.rules.yml")
	is.NoErr(err)
	asked := string(rules)
	for _, exprs := range dashboard(t) {
		asked += strings.Join(exprs, "\n")
	}
	names := regexp.MustCompile(`\bmegaphone_\w+`).FindAllString(asked, -1)
	is.True(len(names) > 10)
	for _, name := range names {
		if !there[name] {
			t.Errorf("%s is asked for, and not there", name)
		}
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// The original's sample service registers first and listens then: its check is
// Critical for a moment only, not until the next interval.
func TestServiceThatRegistersBeforeItListens(t *testing.T) {
	is := is.New(t)
	p := serve(t, t.TempDir(), "--interval", "10m") // only a repeated first poll can help
	addr := freeAddress(t)
	body := fmt.Sprintf(`{"id": "bar", "url": {"addr": "http://%s/", "jsonpath": ""}}`, addr)
	p.must("POST", "/checks", body, http.StatusOK)
	is.True(strings.Contains(p.must("GET", "/", "", http.StatusOK), `bar:Critical:timeout connecting to http://`+addr+`/`))
	l, err := net.Listen("tcp", addr)
	is.NoErr(err)
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"status": "OK", "message": "bar is here", "version": "1.0"}`)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }() // ends with Close below
	defer func() { _ = srv.Close(); <-done }()
	eventually(t, 20*time.Second, "it is OK", func() error {
		if text := p.must("GET", "/", "", http.StatusOK); !strings.Contains(text, `"status": "OK"`) {
			return fmt.Errorf("%s", text)
		}
		return nil
	})
}

// The original's cache file is taken over, kept up to date in its own format,
// and good for going back: ids and urls as they were, the file before the last
// change beside it.
func TestCacheThereAndBack(t *testing.T) {
	is := is.New(t)
	svc := newServices(t)
	svc.Set("a", 1)
	cache := filepath.Join(t.TempDir(), "megaphone.json")
	old := fmt.Sprintf(`{"a": "%s/a", "b": {"addr": "%s/a", "jsonpath": "status", "team": "x"}, "--global": "stop"}`, svc.URL, svc.URL)
	is.NoErr(os.WriteFile(cache, []byte(old), 0o600))
	p := serve(t, t.TempDir(), "--cache", cache)
	is.True(strings.Contains(p.must("GET", "/", "", http.StatusOK), `"message": "stop"`)) // --global holds
	p.must("DELETE", "/checks/--global", "", http.StatusOK)
	is.True(strings.Contains(p.must("GET", "/", "", http.StatusOK), `"message": "Everything is OK!"`)) // polled already
	p.must("PUT", "/hosts/web01/checks/pushed", `{"ttl":"1h"}`, http.StatusCreated)                    // the format cannot say this
	p.must("POST", "/checks", `{"id": "c", "url": "`+svc.URL+`/a"}`, http.StatusOK)
	read := func(file string) (m map[string]any) {
		b, err := os.ReadFile(file)
		is.NoErr(err)
		is.NoErr(json.Unmarshal(b, &m))
		return m
	}
	want := map[string]any{
		"a": svc.URL + "/a", "c": svc.URL + "/a",
		"b": map[string]any{"addr": svc.URL + "/a", "jsonpath": "status", "team": "x"},
	}
	is.Equal(read(cache), want)
	delete(want, "c")
	is.Equal(read(cache+".backup"), want)
}

package bus_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// The file is written before the acknowledgement, urls as they were posted, and
// holds what the format can say of the local host.
func TestCacheFile(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	_, r := b.start()
	is.Equal(b.read("cache.json"), "{}")
	reg := events.Registration{ID: `b "é"`, URL: json.RawMessage(`{"addr":"http://x/?a=<1>&b","zz":1.50,"jsonpath":"a/b"}`)}
	_, err := r.Register(ctx, reg)
	is.NoErr(err)
	first := `{"b \"é\"": {"addr":"http://x/?a=<1>&b","zz":1.50,"jsonpath":"a/b"}}`
	is.Equal(b.read("cache.json"), first)
	_, err = r.Register(ctx, polled("web01", "a"))
	is.NoErr(err)
	second := `{"a": "http://localhost:1/a", ` + first[1:]
	is.Equal(b.read("cache.json"), second)
	is.Equal(b.read("cache.json.backup"), first) // before the last change

	// Nothing of this is in the format.
	_, err = r.Register(ctx, polled("web02", "other"))
	is.NoErr(err)
	_, err = r.Register(ctx, events.Registration{Host: "web01", ID: "push", TTL: events.Duration(1e9)})
	is.NoErr(err)
	_, err = r.SetOverride(ctx, events.Override{Host: "web01", Maintenance: true, Forever: true})
	is.NoErr(err)
	is.Equal(b.read("cache.json"), second)
	is.Equal(b.read("cache.json.backup"), first)

	critical := events.Critical
	global := events.Override{Host: "web01", Status: &critical, Forever: true, By: "--global", Global: json.RawMessage(`{"why": "because"}`)}
	_, err = r.SetOverride(ctx, global)
	is.NoErr(err)
	is.True(strings.Contains(b.read("cache.json"), `"--global": {"why": "because"}`))
	found, _, err := r.ClearOverride(ctx, "web01", "", "")
	is.NoErr(err)
	is.True(found)
	is.Equal(b.read("cache.json"), second)
	_, _, err = r.Deregister(ctx, "web01", "a", "test")
	is.NoErr(err)
	is.Equal(b.read("cache.json"), first)
	b.end()
}

// The form in which a url comes back from the bus is no change: .backup stays
// the file before the last one.
func TestCacheBackupOfBlanks(t *testing.T) {
	is := is.New(t)
	b := newBox(t)
	_, r := b.start()
	for _, id := range []string{"a", "b"} {
		_, err := r.Register(t.Context(), events.Registration{ID: id, URL: json.RawMessage(`{ "addr": "http://x/?<>", "n": [1.50, 2] }`)})
		is.NoErr(err)
	}
	b.end() // what is still to be written is written then
	var urls map[string]json.RawMessage
	is.NoErr(json.Unmarshal([]byte(b.read("cache.json")), &urls))
	is.Equal(len(urls), 2)
	clear(urls)
	is.NoErr(json.Unmarshal([]byte(b.read("cache.json.backup")), &urls))
	is.Equal(len(urls), 1)
}

// An original's cache is taken over at the first start.
func TestCacheTakenOver(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	b.write("cache.json", `{"db": "http://localhost:1/", "o": {"addr": "http://x", "more": [1]}, "": "x", "n": 5, "--global": "down"}`)
	_, r := b.start()
	is.True(r.FromCache())
	is.Equal(ids(r.Checks()), "web01/db web01/o")
	e, _ := r.Check("web01", "o")
	is.Equal(e.Registration.Origin, "cache")
	o, ok := r.Override("web01", "")
	is.True(ok)
	is.Equal(string(o.Override.Global), `"down"`)
	is.Equal(*o.Override.Status, events.Critical)
	_, _, err := r.Deregister(ctx, "web01", "db", "test")
	is.NoErr(err)
	_, _, err = r.ClearOverride(ctx, "web01", "", "")
	is.NoErr(err)
	b.end()

	// What the stream has seen is decided there: it does not come back. What it never saw is new.
	b.write("cache.json", `{"db": "http://localhost:1/", "o": "changed", "--global": "down", "new": "http://localhost:2/"}`)
	_, r = b.start()
	is.True(!r.FromCache())
	is.Equal(ids(r.Checks()), "web01/new web01/o")
	e, _ = r.Check("web01", "o")
	is.Equal(string(e.Registration.URL), `{"addr":"http://x","more":[1]}`)
	_, ok = r.Override("web01", "")
	is.True(!ok)
	is.Equal(b.read("cache.json"), `{"new": "http://localhost:2/", "o": {"addr":"http://x","more":[1]}}`)
	b.end()

	// Not even when the bus has lost its data: the file knows what was deregistered.
	b.write("cache.json", `{"db": "http://localhost:1/"}`)
	b.loseBus()
	_, r = b.start()
	is.True(!r.FromCache())
	is.Equal(ids(r.Checks()), "web01/new web01/o")
	b.end()

	// When the file is lost too, the cache is all there is.
	b.loseBus()
	is.NoErr(os.Remove(filepath.Join(b.dir, "registrations.jsonl")))
	_, r = b.start()
	is.True(r.FromCache())
	is.Equal(ids(r.Checks()), "web01/new web01/o")
	b.end()
}

func TestCacheDamaged(t *testing.T) {
	for name, tt := range map[string]struct{ cache, backup, want string }{
		"the backup helps": {`{"a": "http:`, `{"b": "http://x"}`, "web01/b"},
		"a list":           {`["a"]`, `{"b": "http://x"}`, "web01/b"},
		"both are damaged": {``, `null`, ""},
		"no backup":        {`{} {}`, ``, ""},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b := newBox(t)
			b.write("cache.json", tt.cache)
			if tt.backup != "" {
				b.write("cache.json.backup", tt.backup)
			}
			_, r := b.start()
			is.Equal(ids(r.Checks()), tt.want)
			is.Equal(b.read("cache.json.corrupt"), tt.cache) // set aside
			is.NoErr(r.CacheError())
			b.end()
		})
	}
}

// What the cache cannot hold is not registered.
func TestCacheCannotBeWritten(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c := b.connect()
	defer b.end()
	folder := filepath.Join(b.dir, "folder")
	is.NoErr(os.Mkdir(folder, 0o755))
	r := run(t, c, bus.RegistryOptions{Cache: filepath.Join(folder, "cache.json"), Local: "web01"})
	_, err := r.Register(ctx, polled("web01", "a"))
	is.NoErr(err)
	is.NoErr(os.RemoveAll(folder)) // as root, permissions would not stop anyone

	_, err = r.Register(ctx, polled("web01", "b"))
	is.True(errors.Is(err, bus.ErrCache))
	is.True(strings.Contains(err.Error(), "no such file")) // the plain reason
	is.True(r.CacheError() != nil)
	_, _, err = r.Deregister(ctx, "web01", "a", "test")
	is.True(errors.Is(err, bus.ErrCache))
	is.Equal(ids(r.Checks()), "web01/a") // neither was done by half
	_, err = r.Register(ctx, polled("web02", "c"))
	is.NoErr(err) // the cache does not speak of others

	is.NoErr(os.Mkdir(folder, 0o755))
	_, err = r.Register(ctx, polled("web01", "d"))
	is.NoErr(err)
	is.NoErr(r.CacheError())
	is.Equal(b.read("folder/cache.json"), `{"a": "http://localhost:1/a", "d": "http://localhost:1/d"}`)
	r.stop()
}

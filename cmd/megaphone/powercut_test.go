package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus/server"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// acked is what was acknowledged of a check before the power went.
type acked struct {
	registered bool
	overridden bool
	at         map[int][2]time.Time // between which times each push was made
}

// A power cut: the data directory as it is at some moment of the work, the last
// blocks of each stream cut off or spoilt. Everything acknowledged that is synced
// comes back, the process starts, shows no push as newer than it is, says so where
// its registrations were shortened, and each check works as before. MEGAPHONE_LONG
// repeats it fifty times.
func TestPowerCut(t *testing.T) {
	skipUnderRace(t)
	rounds := 3
	if os.Getenv("MEGAPHONE_LONG") != "" {
		rounds = 50
	}
	data := t.TempDir()
	p := serve(t, data, "--register-wait", "0")
	w := &writers{p: p, checks: map[string]acked{}}
	for round := range rounds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			stop := w.start()
			defer stop()
			w.more(t, 40+rnd.IntN(40))
			sure := w.snapshot()
			cut := filepath.Join(t.TempDir(), "data")
			copyRunning(t, data, cut)
			stop()
			lost := spoil(t, rnd, cut)
			t.Logf("round %d: %d checks, spoilt: %s", round, len(sure), strings.Join(lost, ", "))
			p := afterPowerCut(t, cut, sure)
			worksAsBefore(t, p, cut, sure).Stop()
			if text := p.log.String(); slices.ContainsFunc(lost, func(s string) bool {
				return strings.HasPrefix(s, "REGISTRATIONS -") && !strings.HasPrefix(s, "REGISTRATIONS -0")
			}) {
				is.New(t).True(strings.Contains(text, "shorter")) // it says so
			}
		})
	}
}

func afterPowerCut(t *testing.T, data string, sure map[string]acked) *process {
	is := is.New(t)
	p := serve(t, data, "--register-wait", "0")
	for id, a := range sure {
		v := p.check(id)
		is.Equal(v.Override != nil, a.overridden)
		if v.Phase == events.Pending || v.Message == "" || v.Override != nil {
			continue // it says that it knows nothing, or what its override says
		}
		var n int
		if _, err := fmt.Sscanf(v.Message, "n%d", &n); err != nil {
			continue // silence
		}
		made, ok := a.at[n]
		is.True(ok)                                                                                   // it shows a push that was made
		is.True(!v.Observed.Before(made[0].Truncate(time.Millisecond)) && !v.Observed.After(made[1])) // with its own time, however old
	}
	return p
}

// worksAsBefore pushes to each check until that is acknowledged, and waits until it
// shows. It returns the process that did it: see supervised.
func worksAsBefore(t *testing.T, p *process, data string, sure map[string]acked) *process {
	t.Helper()
	for id := range sure {
		eventually(t, 60*time.Second, id+" takes a push", func() error {
			p = supervised(t, p, data)
			if code, text := p.call("PUT", "/hosts/web01/checks/"+id+"/status", `{"status":"Critical","message":"after"}`); code != http.StatusNoContent {
				return fmt.Errorf("%d %s", code, text)
			}
			return nil
		})
	}
	for id, a := range sure {
		eventually(t, 60*time.Second, id+" works", func() error {
			p = supervised(t, p, data)
			var v events.CheckView
			if _, text := p.call("GET", "/hosts/web01/checks/"+id, ""); json.Unmarshal([]byte(text), &v) != nil {
				return errors.New(text)
			}
			if v.Message != "after" && !a.overridden {
				return fmt.Errorf("%s %s", v.Status, v.Message)
			}
			if v.Reported != nil && *v.Reported != events.Critical {
				return errNotYet
			}
			return nil
		})
	}
	return p
}

// supervised starts a process again that ended because its bus has to be started
// anew, as a service manager does: a block of a stream that was spoilt is found out
// when it is written to.
func supervised(t *testing.T, p *process, data string) *process {
	t.Helper()
	select {
	case <-p.done:
	default:
		return p
	}
	if text := p.log.String(); !strings.Contains(text, server.ErrRestart.Error()) {
		t.Fatalf("it ended:\n%s", text)
	}
	return serve(t, data, "--register-wait", "0")
}

// writers register, override and push, and remember what was acknowledged.
type writers struct {
	p    *process
	next [4]int // what each does next

	mu     sync.Mutex
	checks map[string]acked
}

// start has them write until stop is called.
func (w *writers) start() (stop func()) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	for n := range w.next {
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
					w.write(n, w.next[n])
					w.next[n]++
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		close(quit)
		wg.Wait()
	})
}

func (w *writers) write(n, i int) {
	id := fmt.Sprintf("c-%d-%d", n, i/8)
	path := "/hosts/web01/checks/" + id
	a := w.get(id)
	began := time.Now()
	switch i % 8 {
	case 0:
		code, _ := w.p.call("PUT", path, `{"ttl":"1h"}`)
		a.registered = code == http.StatusCreated
	case 7:
		if n%2 == 0 {
			code, _ := w.p.call("PUT", path+"/override", `{"maintenance":true,"reason":"disk","until":"forever"}`)
			a.overridden = code == http.StatusOK
		}
	default:
		status := events.Statuses()[i%4]
		code, _ := w.p.call("PUT", path+"/status", fmt.Sprintf(`{"status":%q,"message":"n%d"}`, status, i))
		if code == http.StatusNoContent {
			a.at[i] = [2]time.Time{began, time.Now()}
		}
	}
	w.set(id, a)
}

func (w *writers) get(id string) acked {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.checks[id]
	if !ok {
		a.at = map[int][2]time.Time{}
	}
	return a
}

func (w *writers) set(id string, a acked) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checks[id] = a
}

// more waits for that many checks more.
func (w *writers) more(t *testing.T, n int) {
	t.Helper()
	count := func() int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.checks) }
	want := count() + n
	eventually(t, 120*time.Second, "more checks", func() error {
		if count() < want {
			return errNotYet
		}
		return nil
	})
}

// snapshot is what is sure now: checks on which nobody works any more.
func (w *writers) snapshot() map[string]acked {
	w.mu.Lock()
	defer w.mu.Unlock()
	newest := map[string]int{}
	for id := range w.checks {
		var n, i int
		fmt.Sscanf(id, "c-%d-%d", &n, &i)
		newest[fmt.Sprint(n)] = max(newest[fmt.Sprint(n)], i)
	}
	out := map[string]acked{}
	for id, a := range w.checks {
		var n, i int
		fmt.Sscanf(id, "c-%d-%d", &n, &i)
		if a.registered && i < newest[fmt.Sprint(n)] {
			out[id] = a
		}
	}
	return out
}

// copyRunning copies a directory that is being written, file by file.
func copyRunning(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// spoil cuts off the last block of each stream, and flips bits in what remains of
// its end. It returns what it did.
func spoil(t *testing.T, rnd *rand.Rand, data string) (did []string) {
	t.Helper()
	blocks, err := filepath.Glob(filepath.Join(data, "jetstream", "jetstream", "*", "streams", "*", "msgs", "*.blk"))
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]string{} // by stream
	number := func(path string) (n int) {
		fmt.Sscanf(filepath.Base(path), "%d.blk", &n)
		return n
	}
	for _, b := range blocks {
		if dir := filepath.Dir(b); last[dir] == "" || number(b) > number(last[dir]) {
			last[dir] = b
		}
	}
	if len(last) < 5 {
		t.Fatalf("streams have moved: %v", blocks)
	}
	for dir, path := range last {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		stream := filepath.Base(filepath.Dir(dir))
		cut := 0
		if rnd.IntN(4) > 0 {
			cut = rnd.IntN(min(len(b)/2, 16<<10) + 1)
			b = b[:len(b)-cut]
		}
		flips := 0
		if len(b) > 0 && rnd.IntN(2) > 0 {
			flips = 1 + rnd.IntN(4)
			for range flips {
				b[len(b)-1-rnd.IntN(min(len(b), 4<<10))] ^= 1 << rnd.IntN(8)
			}
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		did = append(did, fmt.Sprintf("%s -%d ^%d", stream, cut, flips))
	}
	slices.Sort(did)
	return did
}

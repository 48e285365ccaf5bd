package bus_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/matryer/is"
)

const childDir = "MEGAPHONE_TEST_CHILD" // in the environment: the process is to be killed

// No write that was acknowledged is lost by kill -9 of the process with the bus
// and the registry in it: neither if it finds its data again, nor if the bus's
// are gone, nor if the file is.
func TestRegistryKilled(t *testing.T) {
	for name, lose := range map[string]func(b *box){
		"nothing is lost": func(*box) {},
		"the bus is lost": func(b *box) { b.loseBus() },
		"the file is lost": func(b *box) {
			os.Remove(filepath.Join(b.dir, "registrations.jsonl"))
			os.Remove(filepath.Join(b.dir, "cache.json"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b := newBox(t)
			sure, maybe := acknowledged(t, b, 400)
			lose(b)
			_, r := b.start()
			is.True(len(sure) > 100)
			for id, there := range sure {
				if _, ok := r.Check("web01", id); ok != there && !maybe[id] {
					t.Errorf("%s was acknowledged as there=%v, now it is there=%v", id, there, ok)
				}
			}
			b.end()
		})
	}
}

// acknowledged runs the child on the directories of b until it told n writes and
// kills it. It returns what was told last of each check, and which were being
// changed at the end.
func acknowledged(t *testing.T, b *box, n int) (sure, maybe map[string]bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRegistryChild$")
	cmd.Env = append(os.Environ(), childDir+"="+b.dir, childDir+"_BUS="+b.bus)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sure, maybe = map[string]bool{}, map[string]bool{}
	acks := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		word, id, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "try":
			maybe[id] = true
		case "there", "gone":
			sure[id] = word == "there"
			delete(maybe, id)
			if acks++; acks == n {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	cmd.Wait() // it was killed: the error is expected
	if acks < n {
		t.Fatalf("the child ended after %d writes", acks)
	}
	return sure, maybe
}

func TestRegistryChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("only as the child of TestRegistryKilled")
	}
	b := &box{t: t, dir: dir, bus: os.Getenv(childDir + "_BUS")} // the parent's: nobody cleans up after a kill
	t.Cleanup(b.end)
	_, r := b.start()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("w%d-%d", w, i)
				fmt.Println("try", id)
				if _, err := r.Register(t.Context(), polled("web01", id)); err != nil {
					return
				}
				fmt.Println("there", id)
				if i%5 != 4 {
					continue
				}
				fmt.Println("try", id)
				if _, _, err := r.Deregister(t.Context(), "web01", id, "test"); err != nil {
					return
				}
				fmt.Println("gone", id)
			}
		})
	}
	wg.Wait()
}

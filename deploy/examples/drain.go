// Drain takes hosts out of service when Megaphone says that they are Critical,
// and in again when they are not.
//
//	go run ./deploy/examples --drain 'lb-ctl drain {host}' --undrain 'lb-ctl ready {host}'
//
// It acts on a host that is Critical with phase live, or because of silence. It
// does not act on stale for other reasons (nobody looked: that is Megaphone's
// failure), nor on what was set by hand. It stops at a share of the hosts
// (--limit, 20 %): what condemns a fifth of a fleet at once is more often the
// monitoring, or the network between, than the fleet. Those that wait then are
// drained once there is room.
//
// Limits: commands run one after another, without a shell, for 30 s at most, and
// are tried three times. It keeps nothing on disk: after a restart every host that
// is Critical and live is drained again, so the command must be idempotent; one
// that was drained before and is well by now, or was silent, is left as it is.
// drain.sh beside it keeps what it did.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("drain: ")
	url := flag.String("bus", "nats://127.0.0.1:4222", "`URL` of the bus")
	host := flag.String("host", "", "only hosts of this `PATTERN`, such as 'web*'")
	limit := flag.Int("limit", 20, "at most this share of the hosts, in `PERCENT`")
	drain := flag.String("drain", "", "`COMMAND` that takes {host} out of service")
	undrain := flag.String("undrain", "", "`COMMAND` that puts {host} in again; none: by hand")
	flag.Parse()
	if *drain == "" || *limit < 0 || *limit > 100 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f := fleet{limit: *limit, hosts: map[string]*target{}, drain: command(*drain), undrain: command(*undrain)}
	if err := f.follow(ctx, *url, *host); err != nil {
		log.Fatal(err)
	}
}

// target is a host that may be drained.
type target struct {
	condemned bool
	well      bool
	drained   bool
	told      bool // that it has to wait
}

// fleet is all hosts, and what to do with them. It is used by one goroutine.
type fleet struct {
	limit          int // percent
	hosts          map[string]*target
	again          map[string]*target // while the present state is told: what was known before
	drain, undrain func(ctx context.Context, host string) error
}

// follow acts until ctx ends.
func (f *fleet) follow(ctx context.Context, url, pattern string) error {
	c, err := bus.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer c.Close()
	f.again = map[string]*target{}
	o := bus.WatchOptions{State: true, Filter: events.Filter{Host: pattern, Hosts: true}}
	for change, err := range c.Watch(ctx, o) {
		var gap *bus.GapError
		switch {
		case errors.As(err, &gap):
			log.Print(err)
			if gap.Subject == "" { // the present state follows
				f.again, f.hosts = f.hosts, map[string]*target{}
			}
			continue
		case err != nil:
			return err
		case change.Complete:
			log.Printf("%d hosts", len(f.hosts))
			f.again = nil
		default:
			f.note(change.Transition)
		}
		if f.again == nil {
			f.settle(ctx)
		}
	}
	return nil
}

// note takes in how a host is.
func (f *fleet) note(t events.Transition) {
	if t.Current.Phase == events.Gone {
		delete(f.hosts, t.Host)
		return
	}
	h := f.hosts[t.Host]
	if h == nil {
		h = &target{}
		if old := f.again[t.Host]; old != nil {
			h.drained = old.drained
		}
		f.hosts[t.Host] = h
	}
	critical := t.Current.Status != nil && *t.Current.Status == events.Critical
	h.condemned = critical && (t.Current.Phase == events.Live || t.Cause == events.CauseSilence)
	h.well = !critical && t.Current.Phase == events.Live
}

// settle does what is to be done: first those that are well again, because they
// make room.
func (f *fleet) settle(ctx context.Context) {
	drained := 0
	for _, name := range slices.Sorted(maps.Keys(f.hosts)) {
		h := f.hosts[name]
		if h.drained && h.well {
			h.drained = !f.run(ctx, "ready", name, f.undrain)
		}
		if h.drained {
			drained++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.hosts)) {
		h := f.hosts[name]
		switch {
		case !h.condemned || h.drained:
			h.told = false
		case (drained+1)*100 > f.limit*len(f.hosts):
			if !h.told {
				log.Printf("%s is NOT drained: %d of %d hosts are, and the limit is %d %%", name, drained, len(f.hosts), f.limit)
			}
			h.told = true
		case f.run(ctx, "drained", name, f.drain):
			h.drained = true
			drained++
		}
	}
}

const (
	attempts    = 3
	attemptTime = 30 * time.Second
)

// run reports whether the command succeeded.
func (f *fleet) run(ctx context.Context, what, host string, do func(context.Context, string) error) bool {
	var err error
	for range attempts {
		if err = do(ctx, host); err == nil {
			log.Printf("%s is %s", host, what)
			return true
		}
	}
	log.Printf("%s is not %s: %v", host, what, err)
	return false
}

// command makes a function of a line in which {host} stands for the host. There
// is no shell: words are split at spaces. A name cannot be taken for an option.
func command(line string) func(context.Context, string) error {
	words := strings.Fields(line)
	return func(ctx context.Context, host string) error {
		if len(words) == 0 {
			return errors.New("no command is given for that")
		}
		if strings.HasPrefix(host, "-") {
			return fmt.Errorf("%s could be taken for an option", host)
		}
		args := make([]string, len(words))
		for i, w := range words {
			args[i] = strings.ReplaceAll(w, "{host}", host)
		}
		ctx, cancel := context.WithTimeout(ctx, attemptTime)
		defer cancel()
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
		}
		return nil
	}
}

package pollers

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/shirou/gopsutil/v4/process"
)

// processSeen is the document of processes.
type processSeen struct {
	Count   int        `json:"count"`
	PIDs    []int32    `json:"pids"`
	Memory  uint64     `json:"memory_bytes"`      // resident, of all together
	Started *time.Time `json:"started,omitempty"` // the youngest
}

// processes is a look at all of this machine's, shared by the checks that look
// at the same time.
type processes struct {
	mu    sync.Mutex
	at    time.Time
	known []running
}

type running struct {
	*process.Process
	name, command string
}

// processesFresh is how old a look may be that is used again.
const processesFresh = time.Second

// list returns what runs, zombies excepted.
func (p *processes) list(ctx context.Context) ([]running, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) < processesFresh {
		return p.known, nil
	}
	all, err := process.ProcessesWithContext(ctx)
	if err != nil {
		return nil, err
	}
	known := make([]running, 0, len(all))
	for _, one := range all {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		name, err := one.NameWithContext(ctx)
		state, errState := one.StatusWithContext(ctx)
		if err != nil || errState != nil || slices.Contains(state, process.Zombie) {
			continue // it has ended
		}
		command, _ := one.CmdlineWithContext(ctx) // empty for those of the kernel
		known = append(known, running{one, name, command})
	}
	p.at, p.known = time.Now(), known
	return known, nil
}

// check counts the processes of a name, or whose command line matches.
func (p *processes) check(ctx context.Context, t events.Target, o events.Options) Finding {
	pattern, err := events.Pattern(o.Command)
	if err != nil {
		return failed(t, err)
	}
	name := events.LocalPath(t.Addr)
	if name == "" && pattern == nil {
		return failed(t, fmt.Errorf("neither the name of a process nor a command is given"))
	}
	all, err := p.list(ctx)
	if err != nil {
		return failed(t, fmt.Errorf("look at the processes: %w", err))
	}
	seen := see(ctx, all, name, pattern)
	called := name
	if called == "" {
		called = fmt.Sprintf("%q", o.Command)
	}
	return judgeProcesses(t, o, called, seen)
}

// maxPIDs is how many are named.
const maxPIDs = 20

func see(ctx context.Context, all []running, name string, pattern *regexp.Regexp) processSeen {
	seen := processSeen{PIDs: []int32{}}
	for _, one := range all {
		if name != "" && one.name != name || pattern != nil && !pattern.MatchString(one.command) {
			continue
		}
		memory, err := one.MemoryInfoWithContext(ctx)
		started, errStarted := one.CreateTimeWithContext(ctx)
		if err != nil || errStarted != nil {
			continue // it ended just now
		}
		seen.Count++
		seen.Memory += memory.RSS
		if len(seen.PIDs) < maxPIDs {
			seen.PIDs = append(seen.PIDs, one.Pid)
		}
		if at := time.UnixMilli(started).UTC(); seen.Started == nil || at.After(*seen.Started) {
			seen.Started = &at
		}
	}
	return seen
}

func judgeProcesses(t events.Target, o events.Options, name string, seen processSeen) Finding {
	var v verdict
	least := 1
	switch {
	case o.MinCount != nil:
		least = *o.MinCount
	case o.MaxCount != nil && *o.MaxCount == 0: // it must not run
		least = 0
	}
	switch {
	case seen.Count < least:
		v.say(events.Critical, "%d processes %s, at least %d are expected", seen.Count, name, least)
	case o.MaxCount != nil && seen.Count > *o.MaxCount:
		v.say(events.Critical, "%d processes %s, at most %d are expected", seen.Count, name, *o.MaxCount)
	}
	if o.MinAge > 0 && seen.Started != nil && time.Since(*seen.Started) < o.MinAge.D() {
		v.say(events.Warning, "%s runs since %s only", name, seen.Started.Format(time.RFC3339))
	}
	switch memory := int64(seen.Memory); {
	case o.MemoryCriticalBytes > 0 && memory > o.MemoryCriticalBytes:
		v.say(events.Critical, "%s uses more than %d bytes of memory", name, o.MemoryCriticalBytes)
	case o.MemoryWarningBytes > 0 && memory > o.MemoryWarningBytes:
		v.say(events.Warning, "%s uses more than %d bytes of memory", name, o.MemoryWarningBytes)
	}
	return found(t, v.status(), v.message(fmt.Sprintf("%d processes %s", seen.Count, name)), seen)
}

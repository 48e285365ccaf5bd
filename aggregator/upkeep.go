package aggregator

import (
	"context"
	"errors"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/nats-io/nats.go/jetstream"
)

// upkeepEvery is how often a partition sees to it that nothing is lost with what
// RESULTS forgets; more often where RESULTS forgets faster.
const upkeepEvery = time.Minute

// farBehind is after how many foreign transitions a checkpoint without news is
// written anew, so that a takeover need not read them.
const farBehind = 1000

// upkeep is when a partition did its upkeep last, and what RESULTS held then.
type upkeep struct {
	due         time.Time // by this process's clock
	first, half uint64    // positions in RESULTS: the first, and that in the middle
}

// needed reports whether the time has come, or RESULTS has lost half of what was
// its older half: a flood can empty it within less than a minute.
func (u upkeep) needed(now time.Time, first uint64) bool {
	return now.After(u.due) || first > u.first+(u.half-u.first)/2
}

// watchStreams keeps a.first, the first position that RESULTS holds, and a.stateUsed
// up to date until ctx ends: two questions a second for all partitions.
func (a *Aggregator) watchStreams(ctx context.Context) {
	for {
		if a.cfg.Conn.NATS().IsConnected() {
			if info := a.ask(ctx, bus.StreamResults); info != nil {
				a.first.Store(info.State.FirstSeq)
			}
			if info := a.ask(ctx, bus.StreamState); info != nil {
				a.noteRoom(info)
			}
		}
		if !sleep(ctx, time.Second) {
			return
		}
	}
}

// ask asks what a stream holds; nil for no answer: the next second asks again.
func (a *Aggregator) ask(ctx context.Context, stream string) *jetstream.StreamInfo {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := a.cfg.Conn.JetStream().Stream(ctx, stream)
	if err != nil {
		a.log.Debug("ask what a stream holds", "stream", stream, "error", err)
		return nil
	}
	return s.CachedInfo()
}

// What is done where STATE is nearly full, by percent of its bytes that are used. The
// last of them are for fences and checkpoints: without these no partition is held.
const (
	leanAbove   = 80 // records say less, and first pushes register nothing
	closedAbove = 95 // nothing but the end of a check is recorded
)

// errNoRoom says that a record was not written because STATE is nearly full. What it
// says is still in CHANGES and RESULTS, as long as these keep it.
var errNoRoom = errors.New("no room for states: raise --data-max, or deregister checks")

// noteRoom takes note of how much of STATE is used.
func (a *Aggregator) noteRoom(info *jetstream.StreamInfo) {
	var used int64
	if most := info.Config.MaxBytes; most > 0 {
		used = int64(info.State.Bytes / (uint64(most)/100 + 1))
	}
	if was := a.stateUsed.Swap(used); used > leanAbove && was <= leanAbove {
		a.log.Warn("STATE is nearly full: raise --data-max, or deregister checks", "used_percent", used)
	}
}

// keepUp writes what must not be lost when RESULTS forgets it: the states of
// checks whose last result is in its older half, so that a ttl may be longer than
// results are kept. Where nothing came for so long, a tick moves the checkpoint on.
// What is gone for long enough is forgotten.
func (p *partition) keepUp(ctx context.Context) error {
	results, err := p.streamState(ctx, bus.StreamResults)
	if err != nil {
		return err
	}
	changes, err := p.streamState(ctx, bus.StreamChanges)
	if err != nil {
		return err
	}
	half := results.FirstSeq + (results.LastSeq-results.FirstSeq)/2
	p.upkeep = upkeep{due: time.Now().Add(upkeepEvery), first: results.FirstSeq, half: half}
	p.bury()
	for _, h := range p.hosts {
		for _, c := range h.checks {
			if c.state.Applied > c.stored && c.state.Applied <= half {
				p.dirty[c] = struct{}{}
			}
		}
	}
	if p.saved.Changes+farBehind < changes.LastSeq {
		// No write of this partition is under way, so that all its transitions
		// up to here are known.
		p.changes, p.behind = max(p.changes, changes.LastSeq), true
	}
	if p.live && p.results < half && p.tick == 0 {
		return p.publishTick(ctx)
	}
	return nil
}

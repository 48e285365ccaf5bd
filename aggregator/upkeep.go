package aggregator

import (
	"context"
	"time"

	"github.com/looprock/megaphone/bus"
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

// watchResults keeps a.first, the first position that RESULTS holds, up to date
// until ctx ends: one question a second for all partitions.
func (a *Aggregator) watchResults(ctx context.Context) {
	for sleep(ctx, time.Second) {
		if !a.cfg.Conn.NATS().IsConnected() {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		s, err := a.cfg.Conn.JetStream().Stream(ask, bus.StreamResults)
		cancel()
		if err != nil {
			a.log.Debug("ask what RESULTS holds", "error", err) // the next second asks again
			continue
		}
		a.first.Store(s.CachedInfo().State.FirstSeq)
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

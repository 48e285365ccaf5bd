package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// tenure is the time from the attempt to take a partition until it is released
// or lost.
type tenure struct {
	l         *Leases
	partition int
	row       leaseRow // as it was when it was decided to take it
	releasing bool     // used by the manager
	stop      <-chan struct{}
	release   func() // closes stop
	lease     Lease  // without an epoch until it is acquired; not written while hold runs

	revision uint64    // of the last renewal
	began    time.Time // when it was acquired
	returned bool      // hold returned by itself; read after run, as again and lost
	lost     bool      // it could not be renewed in time, or another has it
	again    time.Time // when the partition may be tried again
	note     string    // for the next holder; written while hold runs
}

// leaseRetry is the pause after a renewal that failed.
const leaseRetry = 200 * time.Millisecond

// run takes the partition, runs hold and renews until hold has returned, which
// it is told to do by the end of its context; then it releases the partition,
// unless it was lost.
func (t *tenure) run(ctx context.Context, hold func(context.Context, Lease)) {
	valid := &validity{}
	t.lease = Lease{
		Partition: t.partition, Previous: t.row.stored, Note: t.row.note, Mark: t.row.mark, valid: valid,
		leave: func(note string) { t.note = note },
	}
	if err := t.acquire(ctx, valid); err != nil {
		t.again = time.Now().Add(leaseAgain)
		if !WrongSequence(err) && ctx.Err() == nil {
			t.l.log.Debug("lease was not taken", "partition", t.partition, "error", err)
		}
		return
	}
	t.began = time.Now()
	t.l.count.Add(1)
	defer t.l.count.Add(-1)
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		hold(hctx, t.lease)
	}()
	t.lost = t.keep(hctx, cancel, valid, done)
	valid.end()
	if t.lost {
		return
	}
	select {
	case <-t.stop:
	default:
		t.returned = true
	}
	t.free(ctx)
}

// keep renews until hold has returned. It ends hold's context when the partition
// is to be released, or is lost.
func (t *tenure) keep(ctx context.Context, cancel func(), valid *validity, done <-chan struct{}) (lost bool) {
	renew := time.NewTimer(leaseRenew)
	defer renew.Stop()
	fence := time.NewTimer(valid.left())
	defer fence.Stop()
	var answer chan error // of the renewal that is under way
	rctx, stopRenewal := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		stopRenewal()
		if answer != nil {
			<-answer
		}
	}()
	stop := t.stop
	for {
		select {
		case <-done:
			if answer != nil { // what it makes of the revision has to be known
				lost = <-answer != nil || lost
				answer = nil
			}
			return lost
		case <-stop:
			cancel()
			stop = nil
		case <-renew.C:
			if lost {
				continue
			}
			answer = make(chan error, 1)
			go func() { answer <- t.renew(rctx, valid) }()
		case err := <-answer:
			answer = nil
			switch {
			case err == nil:
				fence.Reset(valid.left())
				renew.Reset(leaseRenew)
			case WrongSequence(err):
				lost = true
				valid.end()
				cancel()
			default:
				renew.Reset(leaseRetry)
			}
		case <-fence.C:
			if valid.holds(time.Now()) {
				fence.Reset(max(valid.left(), time.Millisecond))
				continue
			}
			lost = true
			valid.end()
			cancel()
		}
	}
}

func (t *tenure) acquire(ctx context.Context, valid *validity) error {
	expect := t.row.revision
	if t.row.overdue(time.Now()) && t.row.holder != t.l.o.Holder {
		expect = 0 // only if the server has forgotten it
	}
	err := t.put(ctx, valid, expect)
	if WrongSequence(err) && !t.row.held && expect > 0 {
		err = t.put(ctx, valid, 0) // the mark of its end is forgotten by now
	}
	t.lease.Epoch = t.revision
	return err
}

func (t *tenure) renew(ctx context.Context, valid *validity) error {
	return t.put(ctx, valid, t.revision)
}

// put writes the lease if its last revision is still the expected one, unless an
// outage has to be told first. It does not outlive the time for which the lease
// is valid.
func (t *tenure) put(ctx context.Context, valid *validity, expect uint64) error {
	rec := leaseRecord{V: events.RecordVersion, Holder: t.l.o.Holder, Name: t.l.o.Name, Epoch: t.lease.Epoch}
	if t.l.o.Mark != nil {
		rec.Mark = t.l.o.Mark(t.lease)
	}
	body, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode a lease: %w", err)
	}
	start := time.Now()
	if t.l.pulse.missed(start, t.l.outageAfter) {
		return errNoPulse
	}
	ctx, cancel := context.WithDeadline(ctx, start.Add(LeaseTTL-leaseSpare))
	defer cancel()
	revision, err := t.l.c.storeNow(ctx, &nats.Msg{Subject: t.subject(), Data: body, Header: nats.Header{}},
		jetstream.WithExpectLastSequencePerSubject(expect), jetstream.WithMsgTTL(LeaseTTL))
	if err != nil {
		return err
	}
	t.revision = revision
	valid.renewed(start)
	return nil
}

func (t *tenure) subject() string { return t.l.subject(strconv.Itoa(t.partition)) }

// free tells the others at once that the partition may be taken. If it fails,
// they see it after the TTL.
func (t *tenure) free(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseSpare)
	defer cancel()
	_, err := t.l.c.storeNow(ctx, &nats.Msg{Subject: t.subject(), Data: []byte(t.note), Header: nats.Header{kvOperation: {"DEL"}}},
		jetstream.WithExpectLastSequencePerSubject(t.revision))
	if err != nil {
		t.l.log.Debug("lease was not released: it ends by itself", "partition", t.partition, "error", err)
	}
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// errGap says that a consumer skipped messages, so that it has to be made anew.
var errGap = errors.New("messages of the consumer are missing")

// errReconnected ends a reading whose connection was lost: what the stream is
// now has to be looked at again, because the server may have lost some of it.
var errReconnected = errors.New("the bus connection was lost and is back")

// errAway says that the bus cannot be reached now.
var errAway = errors.New("the bus is away")

// follower reads a stream in order, without acknowledgements, from a position
// on. Unlike the ordered consumer of the NATS client it never goes on by itself
// after a fault: its owner has to know that there was one. It is used by one
// goroutine.
type follower struct {
	c       *Conn
	stream  string
	name    string // of the consumer
	msgs    jetstream.MessagesContext
	pending uint64 // messages there were when it began
	read    uint64 // messages read so far
}

// follow begins to read at the position from; 0 is the oldest that is kept.
func (c *Conn) follow(ctx context.Context, stream string, from uint64, subjects ...string) (*follower, error) {
	cfg := jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: 30 * time.Second,
		FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	if from > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cons, err := c.js.CreateConsumer(ctx, stream, cfg)
	if err != nil {
		return nil, fmt.Errorf("follow the stream %s: %w", stream, err)
	}
	info := cons.CachedInfo()
	msgs, err := cons.Messages(jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return nil, fmt.Errorf("follow the stream %s: %w", stream, err)
	}
	return &follower{c: c, stream: stream, name: info.Name, msgs: msgs, pending: info.NumPending}, nil
}

// next waits for the next message. After an error the follower is to be closed.
func (f *follower) next(ctx context.Context) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	m, err := f.msgs.Next(jetstream.NextContext(ctx))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, nil, fmt.Errorf("follow the stream %s: %w", f.stream, err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, nil, fmt.Errorf("follow the stream %s: %w", f.stream, err)
	}
	if f.read++; meta.Sequence.Consumer != f.read {
		return nil, nil, fmt.Errorf("follow the stream %s: %w", f.stream, errGap)
	}
	return m, meta, nil
}

// close ends the reading. The consumer is deleted if that is quickly done; else
// the server forgets it by itself.
func (f *follower) close() {
	f.msgs.Stop()
	if !f.c.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if err := f.c.js.DeleteConsumer(ctx, f.stream, f.name); err != nil {
		f.c.log.Debug("delete a consumer", "stream", f.stream, "error", err)
	}
}

// untilReconnect returns a context that ends, with the cause [errReconnected],
// when a lost connection is back. The caller must call stop, which waits.
func (c *Conn) untilReconnect(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	status := c.nc.StatusChanged(nats.CONNECTED)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case _, ok := <-status:
			if ok {
				cancel(errReconnected)
			}
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
		c.nc.RemoveStatusListener(status)
	}
}

// sessions runs session again and again until ctx ends, and then returns nil, or
// until the connection is closed. A session ends with any fault and when a lost
// connection is back; it calls well once it works. what is what it follows, and
// meanwhile what holds while it does not: both are for the log.
func (c *Conn) sessions(ctx context.Context, log *slog.Logger, what, meanwhile string, session func(ctx context.Context, well func()) error) error {
	var pause backoff
	down := false
	for {
		sctx, stop := c.untilReconnect(ctx)
		err := session(sctx, func() {
			if down {
				log.Info(what + " are followed again")
			}
			down = false
			pause.reset()
		})
		stop()
		switch {
		case ctx.Err() != nil:
			return nil
		case c.nc.IsClosed():
			return fmt.Errorf("follow the %s: %w", what, nats.ErrConnectionClosed)
		case !down && !errors.Is(err, errReconnected) && !errors.Is(err, errReload):
			log.Warn(what+" are not followed: "+meanwhile, "error", err)
			down = true
		}
		if !pause.wait(ctx) {
			return nil
		}
	}
}

// backoff is the pause before trying again: it doubles from 100 ms to 5 s.
type backoff struct{ pause time.Duration }

// wait sleeps, and reports false when ctx ended.
func (b *backoff) wait(ctx context.Context) bool {
	b.pause = min(max(2*b.pause, 100*time.Millisecond), 5*time.Second)
	t := time.NewTimer(b.pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (b *backoff) reset() { b.pause = 0 }

package aggregator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/nats-io/nats.go/jetstream"
)

// errGap says that a consumer skipped messages.
var errGap = errors.New("messages of the consumer are missing")

// stored is a message with what is known of its place in the stream.
type stored struct {
	jetstream.Msg
	meta *jetstream.MsgMetadata
}

// Metadata does not read it again.
func (s stored) Metadata() (*jetstream.MsgMetadata, error) { return s.meta, nil }

// feed gives the messages of a consumer in their order, without
// acknowledgements. After an error it is to be closed: it never goes on by
// itself. It is used by one goroutine; close may be called by another.
type feed struct {
	conn    *bus.Conn
	stream  string
	name    string // of the consumer
	pending uint64 // messages there were when it began
	msgs    jetstream.MessagesContext
	given   uint64
}

// open makes a consumer of a stream. The caller must close the feed.
func open(ctx context.Context, conn *bus.Conn, stream string, cfg jetstream.ConsumerConfig) (*feed, error) {
	cfg.AckPolicy, cfg.MemoryStorage, cfg.Replicas, cfg.InactiveThreshold = jetstream.AckNonePolicy, true, 1, 30*time.Second
	cons, err := conn.JetStream().CreateConsumer(ctx, stream, cfg)
	if err != nil {
		return nil, fmt.Errorf("read the stream %s: %w", stream, err)
	}
	// The defaults would notice a stall of the client after half a minute only.
	msgs, err := cons.Messages(jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return nil, fmt.Errorf("read the stream %s: %w", stream, err)
	}
	info := cons.CachedInfo()
	return &feed{conn: conn, stream: stream, name: info.Name, pending: info.NumPending, msgs: msgs}, nil
}

// message waits for the next message.
func (f *feed) message(ctx context.Context) (stored, error) {
	m, err := f.msgs.Next(jetstream.NextContext(ctx))
	if err != nil {
		return stored{}, fmt.Errorf("read the stream %s: %w", f.stream, err)
	}
	meta, err := m.Metadata()
	f.given++
	if err == nil && meta.Sequence.Consumer != f.given {
		err = errGap
	}
	if err != nil {
		return stored{}, fmt.Errorf("read the stream %s: %w", f.stream, err)
	}
	return stored{m, meta}, nil
}

// close ends the feed. The consumer is deleted if that is quickly done; else the
// server forgets it by itself.
func (f *feed) close() {
	f.msgs.Stop()
	if !f.conn.NATS().IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// An error leaves the consumer to the server, which is as good.
	_ = f.conn.JetStream().DeleteConsumer(ctx, f.stream, f.name)
}

// reader reads a feed into a channel. Its owner takes over again after a fault.
type reader struct {
	*feed
	out    chan jetstream.Msg
	failed chan error // has room for one
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// ahead is how many messages are read before they are asked for: the server
// need not be asked for each, and 64 partitions together hold few.
const ahead = 64

// read begins to read a stream. The caller must close the reader.
func read(ctx context.Context, conn *bus.Conn, stream string, cfg jetstream.ConsumerConfig) (*reader, error) {
	f, err := open(ctx, conn, stream, cfg)
	if err != nil {
		return nil, err
	}
	rctx, stop := context.WithCancel(context.Background()) // until close
	r := &reader{feed: f, out: make(chan jetstream.Msg, ahead), failed: make(chan error, 1), stop: stop}
	r.wg.Go(func() { r.run(rctx) })
	return r, nil
}

func (r *reader) run(ctx context.Context) {
	for {
		m, err := r.message(ctx)
		if err != nil {
			r.failed <- err
			return
		}
		select {
		case r.out <- m:
		case <-ctx.Done():
			return
		}
	}
}

// next waits for a message, for a bounded time.
func (r *reader) next(ctx context.Context) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	select {
	case m := <-r.out:
		meta, err := m.Metadata()
		return m, meta, err
	case err := <-r.failed:
		return nil, nil, err
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("read the stream %s: %w", r.stream, context.Cause(ctx))
	}
}

// close ends the reading and waits for it.
func (r *reader) close() {
	r.stop()
	r.wg.Wait()
	r.feed.close()
}

// readUpTo calls f with every message that a consumer of cfg finds, up to the
// message at the position want, for which it waits: a read is complete only if
// it saw what was stored last. With a want of 0 it ends with what there is now.
func readUpTo(ctx context.Context, conn *bus.Conn, stream string, cfg jetstream.ConsumerConfig, want uint64, f func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	r, err := read(ctx, conn, stream, cfg)
	if err != nil {
		return err
	}
	defer r.close()
	if want == 0 && r.pending == 0 {
		return nil
	}
	for {
		m, meta, err := r.next(ctx)
		if err != nil {
			return err
		}
		if err := f(m, meta); err != nil {
			return err
		}
		if want > 0 && meta.Sequence.Stream >= want || want == 0 && meta.NumPending == 0 {
			return nil
		}
	}
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go/jetstream"
)

// Names of the streams and of the bucket of leases.
const (
	StreamRegistrations = "REGISTRATIONS"
	StreamResults       = "RESULTS"
	StreamChanges       = "CHANGES"
	StreamState         = "STATE"
	StreamRejected      = "REJECTED"
	BucketLeases        = "LEASES"
	streamLeases        = "KV_" + BucketLeases
)

// configVersion is written into the streams. Raise it with any change below: a
// process changes a stream only if its own version is higher.
const configVersion = 2

// Metadata keys of the streams.
const (
	metaVersion    = "megaphone_config"
	metaPartitions = "megaphone_partitions"
)

// Limits of the streams.
const (
	ResultsAge     = time.Hour           // how long results are kept
	ChangesAge     = 30 * 24 * time.Hour // how long transitions are kept
	RejectedAge    = 7 * 24 * time.Hour
	DefaultMaxData = 2 << 30 // bytes, of all streams together
)

// StreamOptions say how the streams are made. The zero value is one replica
// and [DefaultMaxData].
type StreamOptions struct {
	Replicas int   // of each stream, in a cluster: 1, 3 or 5
	MaxBytes int64 // of all streams together: RESULTS has 50 %, CHANGES 30 %, the rest 20 %
}

// Setup creates the streams that do not exist, brings those of an older
// configuration up to date, and checks the others. Any number of processes may
// call it at once. It needs the role user. The error wraps [ErrPartitions]
// where the streams were made for another number of partitions.
func (c *Conn) Setup(ctx context.Context, o StreamOptions) error {
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxData
	}
	for _, cfg := range streamConfigs(o) {
		if err := c.setupStream(ctx, cfg); err != nil {
			return fmt.Errorf("set up the stream %s: %w", cfg.Name, err)
		}
	}
	return nil
}

func (c *Conn) setupStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	s, err := c.findOrCreate(ctx, cfg)
	if err != nil {
		return err
	}
	had := s.CachedInfo().Config
	if n := had.Metadata[metaPartitions]; n != cfg.Metadata[metaPartitions] {
		return fmt.Errorf("%w: %q, this program has %d", ErrPartitions, n, events.Partitions)
	}
	version, err := strconv.Atoi(had.Metadata[metaVersion])
	if err != nil {
		return fmt.Errorf("read its configuration version: %w", err)
	}
	if version >= configVersion {
		return nil
	}
	cfg.FirstSeq = had.FirstSeq
	_, err = c.js.UpdateStream(ctx, cfg)
	return err
}

// findOrCreate returns the stream. Where several processes create it at once one
// of them wins; the others may also hear that there is no room for a second one,
// so a refusal counts only if the stream is still not there a little later.
func (c *Conn) findOrCreate(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	var refused error
	for try := 0; ; try++ {
		s, err := askAgain(ctx, func(ctx context.Context) (jetstream.Stream, error) { return c.js.Stream(ctx, cfg.Name) })
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return s, err
		}
		if refused != nil && try > createTries {
			return nil, refused
		}
		// Sequences and lease revisions only grow, also across loss of the data.
		cfg.FirstSeq = uint64(time.Now().UnixMicro())
		s, refused = askAgain(ctx, func(ctx context.Context) (jetstream.Stream, error) { return c.js.CreateStream(ctx, cfg) })
		if refused == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, refused
		case <-time.After(createPause):
		}
	}
}

const (
	createTries = 10
	createPause = 50 * time.Millisecond
	askPatience = 2 * time.Second // for one answer
	unavailable = 10008           // error code: the cluster has no leader
)

// askAgain repeats a request that was not answered until ctx ends: a cluster that
// is choosing a leader loses requests, and waiting longer for one does not help.
func askAgain(ctx context.Context, ask func(context.Context) (jetstream.Stream, error)) (jetstream.Stream, error) {
	for {
		try, cancel := context.WithTimeout(ctx, askPatience)
		s, err := ask(try)
		cancel()
		var refused *jetstream.APIError
		lost := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &refused) && refused.ErrorCode == unavailable
		if !lost || ctx.Err() != nil {
			return s, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(createPause):
		}
	}
}

func streamConfigs(o StreamOptions) []jetstream.StreamConfig {
	share := func(percent int64) int64 { return o.MaxBytes / 100 * percent }
	base := func(name string, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Subjects: subjects, Storage: jetstream.FileStorage, Replicas: o.Replicas,
			AllowDirect: true, Discard: jetstream.DiscardOld, Duplicates: 2 * time.Minute, MaxMsgSize: MaxMessage,
			Metadata: map[string]string{
				metaVersion: strconv.Itoa(configVersion), metaPartitions: strconv.Itoa(events.Partitions),
			},
		}
	}

	registrations := base(StreamRegistrations, events.RegistrationSubjects, events.OverrideSubjects)
	registrations.MaxMsgsPerSubject, registrations.MaxBytes = 1, share(8)
	registrations.Discard = jetstream.DiscardNew // a registration is refused rather than an older one forgotten

	results := base(StreamResults, events.ResultSubjects, events.PolledSubjects, events.ReportSubjects, events.TickSubjects)
	results.MaxAge, results.MaxBytes = ResultsAge, share(50)
	results.SubjectTransform = &jetstream.SubjectTransformConfig{
		Source:      "megaphone.*.*.*",
		Destination: fmt.Sprintf("megaphone.{{wildcard(1)}}.{{partition(%d,2)}}.{{wildcard(2)}}.{{wildcard(3)}}", events.Partitions),
	}

	changes := base(StreamChanges, events.CommitSubjects, events.FenceSubjects)
	changes.MaxAge, changes.MaxBytes = ChangesAge, share(30)
	changes.SubjectTransform = &jetstream.SubjectTransformConfig{Source: events.CommitSubjects, Destination: events.StatusSubjects}
	changes.RePublish = &jetstream.RePublish{Source: events.StatusSubjects, Destination: events.StatusSubjects}

	state := base(StreamState, events.StateSubjects)
	state.MaxMsgsPerSubject, state.MaxBytes, state.AllowMsgTTL = 1, share(10), true
	state.Discard = jetstream.DiscardNew

	rejected := base(StreamRejected, events.RejectedSubjects)
	rejected.MaxAge, rejected.MaxBytes = RejectedAge, share(1)

	// As the KV layer of the clients would make it, but with a first sequence.
	leases := base(streamLeases, "$KV."+BucketLeases+".>")
	leases.MaxMsgsPerSubject, leases.MaxBytes = 1, share(1)
	leases.Discard, leases.AllowRollup, leases.DenyDelete = jetstream.DiscardNew, true, true
	leases.AllowMsgTTL, leases.SubjectDeleteMarkerTTL = true, time.Second

	return []jetstream.StreamConfig{registrations, results, changes, state, rejected, leases}
}

// Created returns when the stream CHANGES was made, which is part of the source
// of every transition: numbers start again when all data was lost.
func (c *Conn) Created(ctx context.Context) (time.Time, error) {
	s, err := c.js.Stream(ctx, StreamChanges)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the stream %s: %w", StreamChanges, err)
	}
	return s.CachedInfo().Created, nil
}

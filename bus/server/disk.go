package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	ns "github.com/nats-io/nats-server/v2/server"
)

// ErrRestart says that the server works again only after a restart.
var ErrRestart = errors.New("the server must be started again")

const (
	diskCheck = time.Second // between two looks at the streams
	diskRoom  = 4 << 20     // bytes that can be written when the disk has room again
)

// Run watches over the disk until ctx ends, and then returns nil. A stream of
// which a write failed, as on a full disk, takes no more and answers nothing,
// also when there is room again: the NATS server recovers it only at its start.
// So once the disk takes data again Run returns an error that wraps
// [ErrRestart]; while it does not, a restart would end what still works.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(diskCheck)
	defer tick.Stop()
	var told error
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		broken := s.broken()
		if broken == nil {
			continue
		}
		if told == nil {
			s.log.LogAttrs(ctx, slog.LevelError, "nothing is stored any more until the disk takes data again", slog.Any("error", broken))
			told = broken
		}
		if s.room() == nil {
			return fmt.Errorf("bus server: %w: %w, the disk takes data again", ErrRestart, broken)
		}
	}
}

// broken tells which stream takes no more; nil if all do.
func (s *Server) broken() error {
	if !s.ns.JetStreamEnabled() {
		return errors.New("JetStream was shut down after a failed write")
	}
	for _, e := range s.ns.Healthz(&ns.HealthzOptions{Details: true}).Errors {
		if e.Type == ns.HealthzErrorStream && strings.Contains(e.Error, "write error") {
			return errors.New(e.Error)
		}
	}
	return nil
}

// room reports whether the disk takes data.
func (s *Server) room() error {
	f, err := os.CreateTemp(s.dir, "room.*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // an empty or small file that nobody reads
	_, err = f.Write(make([]byte, diskRoom))
	return errors.Join(err, f.Sync(), f.Close())
}

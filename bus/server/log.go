package server

import (
	"fmt"
	"log/slog"
	"sync"
)

// logger passes the NATS server's log on, and keeps its first fatal line. The
// NATS server ends the process by its logger alone; this one does not.
type logger struct {
	log *slog.Logger

	mu    sync.Mutex
	fatal string
}

func (l *logger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Errorf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l *logger) Debugf(string, ...any)           {}
func (l *logger) Tracef(string, ...any)           {}

// plaintext is what the NATS server warns of at each start. Ours are random, and
// in a file that its owner alone can read; hashes would cost time per connection.
const plaintext = "Plaintext passwords detected, use nkeys or bcrypt"

func (l *logger) Warnf(format string, v ...any) {
	if line := fmt.Sprintf(format, v...); line != plaintext {
		l.log.Warn(line)
	}
}

func (l *logger) Fatalf(format string, v ...any) {
	line := fmt.Sprintf(format, v...)
	l.log.Error(line)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == "" {
		l.fatal = line
	}
}

// err returns the first fatal line, if there was one.
func (l *logger) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == "" {
		return nil
	}
	return fmt.Errorf("bus server: %s", l.fatal)
}

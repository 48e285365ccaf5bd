package bus

import (
	"errors"
	"fmt"
)

// Errors that callers branch on.
var (
	// ErrRefused is wrapped by every error of a request that was understood and
	// refused; its text says what to do.
	ErrRefused = errors.New("refused")
	// ErrNoService is wrapped where nobody answered a request: no gateway is running.
	ErrNoService = errors.New("no gateway answers on the bus")
	// ErrPartitions says that the streams were made with another number of partitions.
	ErrPartitions = errors.New("streams have another number of partitions")
)

// refusal is the answer to a request that was understood and not carried out.
type refusal struct {
	reason string
	later  bool // what is asked for is right, and may be carried out at another time
}

func (r *refusal) Error() string { return ErrRefused.Error() + ": " + r.reason }

func (r *refusal) Unwrap() error { return ErrRefused }

// forGood reports whether a request was refused and would be again.
func forGood(err error) bool {
	var r *refusal
	return errors.As(err, &r) && !r.later
}

// GapError says that transitions are not in the stream CHANGES that a subscriber
// has not read: they were dropped by its limits, or data was lost.
type GapError struct {
	Subject     string // of the check or host; empty where the whole position is too old
	After       uint64 // the last position that was read
	Resume      uint64 // the position after which reading goes on
	From, Until uint64 // the numbers that are missing, or the positions where Subject is empty
}

// Error tells what is missing.
func (e *GapError) Error() string {
	if e.Subject == "" {
		return fmt.Sprintf("positions %d to %d are no longer kept: read the present state", e.From, e.Until)
	}
	return fmt.Sprintf("%s: transitions %d to %d are no longer kept", e.Subject, e.From, e.Until)
}

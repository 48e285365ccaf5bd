package bus

import (
	"context"
	"errors"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"
)

// A cluster that is choosing a leader loses requests: one that waited for the
// first answer all the time it had gave up although the bus was there.
func TestAskAgain(t *testing.T) {
	other := errors.New("other")
	for what, tt := range map[string]struct {
		errs []error
		want error
	}{
		"answered":                   {[]error{nil}, nil},
		"lost, then answered":        {[]error{context.DeadlineExceeded, context.DeadlineExceeded, nil}, nil},
		"no leader, then answered":   {[]error{&jetstream.APIError{Code: 503, ErrorCode: unavailable}, nil}, nil},
		"lost, then refused":         {[]error{context.DeadlineExceeded, jetstream.ErrStreamNotFound}, jetstream.ErrStreamNotFound},
		"what is final is not asked": {[]error{other, nil}, other},
	} {
		t.Run(what, func(t *testing.T) {
			is := is.New(t)
			asked := 0
			_, err := askAgain(t.Context(), func(ctx context.Context) (jetstream.Stream, error) {
				_, bounded := ctx.Deadline()
				is.True(bounded)
				asked++
				return nil, tt.errs[asked-1]
			})
			is.True(errors.Is(err, tt.want))
		})
	}
	is := is.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := askAgain(ctx, func(context.Context) (jetstream.Stream, error) { cancel(); return nil, context.DeadlineExceeded })
	is.True(err != nil) // ends with ctx
}

package server_test

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/bus/server"
)

// On a full disk the server refuses to store and stays; when there is room again
// it asks for a restart, and after that takes data. What it acknowledged is there.
func TestFullDisk(t *testing.T) {
	is := is.New(t)
	disk := t.TempDir()
	mount := func(flags uintptr, size string) error {
		return syscall.Mount("full", disk, "tmpfs", flags, "size="+size)
	}
	if err := mount(0, "16m"); err != nil {
		t.Skip("a small disk needs root:", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(disk, "data")
	s := bustest.StartIn(t, dir, "127.0.0.1:0")
	stored := fillDisk(t, s)

	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	is.NoErr(s.Run(ctx)) // nothing would be won by a restart

	is.NoErr(mount(syscall.MS_REMOUNT, "64m"))
	is.True(errors.Is(s.Run(t.Context()), server.ErrRestart))
	s.Close()

	s = bustest.StartIn(t, dir, "127.0.0.1:0")
	js, err := jetstream.New(bustest.ConnectRole(t, s))
	is.NoErr(err)
	stream, err := js.Stream(t.Context(), "FULL")
	is.NoErr(err)
	is.True(stream.CachedInfo().State.LastSeq >= stored) // nothing acknowledged is lost
	_, err = js.Publish(t.Context(), "full", []byte("again"))
	is.NoErr(err)
}

// fillDisk stores until that fails, and returns how many were acknowledged.
func fillDisk(t *testing.T, s *server.Server) (stored uint64) {
	t.Helper()
	js, err := jetstream.New(bustest.ConnectRole(t, s))
	if err == nil {
		_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FULL", Subjects: []string{"full"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		ack, err := js.PublishMsg(ctx, &nats.Msg{Subject: "full", Data: make([]byte, 256<<10)})
		cancel()
		if err != nil {
			return stored
		}
		stored = ack.Sequence
	}
}

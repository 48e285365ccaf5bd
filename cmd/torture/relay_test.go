package main

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
)

// What is held back arrives when it ends, the end of a connection included; who is
// deaf is heard all the time.
func TestRelay(t *testing.T) {
	for name, tt := range map[string]struct{ deaf bool }{"parted": {false}, "deaf": {true}} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			bus, err := net.Listen("tcp", "127.0.0.1:0")
			is.NoErr(err)
			defer bus.Close()
			r, err := newRelay([]string{bus.Addr().String()}, 0)
			is.NoErr(err)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			wg.Go(func() { r.Run(ctx) })
			client, err := net.Dial("tcp", r.listener.Addr().String())
			is.NoErr(err)
			defer client.Close()
			server, err := bus.Accept()
			is.NoErr(err)

			join := r.Part(tt.deaf)
			_, err = client.Write([]byte("a"))
			is.NoErr(err)
			_, err = server.Write([]byte("b"))
			is.NoErr(err)
			is.NoErr(server.SetReadDeadline(time.Now().Add(held(tt.deaf))))
			buf := make([]byte, 2)
			n, err := server.Read(buf)
			is.Equal(tt.deaf, err == nil && string(buf[:n]) == "a")
			is.NoErr(server.Close())
			is.NoErr(client.SetReadDeadline(time.Now().Add(held(false))))
			_, err = client.Read(buf)
			is.True(err.(net.Error).Timeout()) // neither the answer nor the end

			join()
			is.NoErr(client.SetReadDeadline(time.Time{}))
			n, err = client.Read(buf)
			is.NoErr(err)
			is.Equal(string(buf[:n]), "b")
			_, err = client.Read(buf)
			is.True(err != nil) // closed
		})
	}
}

// held is how long is listened for what should come, or should not.
func held(comes bool) time.Duration {
	if comes {
		return time.Minute
	}
	return 200 * time.Millisecond
}

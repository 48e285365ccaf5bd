package main

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/matryer/is"
)

func TestTryPortDoesNotListen(t *testing.T) {
	is := is.New(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	port := l.Addr().(*net.TCPAddr).Port
	for _, address := range []string{"127.0.0.1", "0.0.0.0", "localhost"} {
		err := tryPort(t.Context(), address, port)
		is.True(err != nil) // taken
		is.True(strings.HasSuffix(err.Error(), "choose another with --port"))
	}
	is.NoErr(l.Close())
	is.NoErr(tryPort(t.Context(), "127.0.0.1", port)) // free
	is.NoErr(tryPort(t.Context(), "127.0.0.1", port)) // and still free
	err = tryPort(t.Context(), "192.0.2.1", 0)
	is.True(err != nil && strings.HasSuffix(err.Error(), "choose another with --listen")) // not ours
}

func TestLateListener(t *testing.T) {
	is := is.New(t)
	l := newLateListener("127.0.0.1", 0)
	is.Equal(l.Addr().String(), "127.0.0.1:0") // not yet
	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = c.Close()
		}
		accepted <- err
	}()
	<-l.opened
	c, err := net.Dial("tcp", l.Addr().String())
	is.NoErr(err)
	is.NoErr(<-accepted)
	is.NoErr(c.Close())
	is.NoErr(l.Close())
	is.NoErr(l.Close()) // twice
	_, err = l.Accept()
	is.True(errors.Is(err, net.ErrClosed))
}

func TestLateListenerClosedBefore(t *testing.T) {
	is := is.New(t)
	l := newLateListener("127.0.0.1", 0)
	is.NoErr(l.Close())
	_, err := l.Accept()
	is.True(errors.Is(err, net.ErrClosed))
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
)

var errTried = errors.New("tried")

// tryPort reports whether HTTP could listen on address and port, without
// listening there: until everything answers, a prober must find the port
// closed. So it binds and does not listen.
func tryPort(ctx context.Context, address string, port int) error {
	lc := net.ListenConfig{Control: func(network, resolved string, raw syscall.RawConn) error {
		to, err := sockaddr(network, resolved)
		if err != nil {
			return err
		}
		var bind error
		if err := raw.Control(func(fd uintptr) { bind = syscall.Bind(int(fd), to) }); err != nil {
			return err
		}
		if bind != nil {
			return bind
		}
		return errTried // closes the socket again
	}}
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	switch {
	case err == nil:
		return l.Close()
	case errors.Is(err, errTried):
		return nil
	}
	return listenError(address, port, err)
}

// listenError says what is wrong and which flag chooses otherwise.
func listenError(address string, port int, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("listen on %s: %w; choose another with --listen", address, err)
	}
	flag := "--port"
	if errno == syscall.EADDRNOTAVAIL {
		flag = "--listen"
	}
	return fmt.Errorf("listen on %s: %w; choose another with %s", net.JoinHostPort(address, strconv.Itoa(port)), errno, flag)
}

// sockaddr is what Go binds to: a wildcard is that of IPv6, which takes IPv4 too.
func sockaddr(network, resolved string) (syscall.Sockaddr, error) {
	ap, err := netip.ParseAddrPort(resolved)
	switch {
	case err != nil:
		return nil, err
	case network == "tcp4":
		return &syscall.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}, nil
	case ap.Addr().IsUnspecified():
		return &syscall.SockaddrInet6{Port: int(ap.Port())}, nil
	}
	return &syscall.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}, nil
}

// lateListener listens at the first call of Accept: so a gateway may be given
// its listener at once, and the port stays closed until it answers. Only Accept
// may be called by several goroutines, and together with the others.
type lateListener struct {
	address string
	port    int
	flag    string        // that chooses both; empty: --listen and --port
	opened  chan struct{} // closed once it listens

	mu     sync.Mutex
	inner  net.Listener
	closed bool
}

func newLateListener(address string, port int) *lateListener {
	return &lateListener{address: address, port: port, opened: make(chan struct{})}
}

// lateListenerAt is one for ADDR:PORT as the flag gives it; nil for none.
func lateListenerAt(flag, address string) *lateListener {
	host, text, err := net.SplitHostPort(address)
	if err != nil { // empty: Config.Validate has seen the others
		return nil
	}
	port, _ := strconv.Atoi(text)
	l := newLateListener(host, port)
	l.flag = flag
	return l
}

// Accept waits for a connection.
func (l *lateListener) Accept() (net.Conn, error) {
	inner, err := l.open()
	if err != nil {
		return nil, err
	}
	return inner.Accept()
}

func (l *lateListener) open() (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, net.ErrClosed
	case l.inner != nil:
		return l.inner, nil
	}
	inner, err := net.Listen("tcp", net.JoinHostPort(l.address, strconv.Itoa(l.port)))
	if err != nil {
		if l.flag != "" {
			return nil, fmt.Errorf("%w; choose another with --%s", err, l.flag)
		}
		return nil, listenError(l.address, l.port, err)
	}
	l.inner = inner
	close(l.opened)
	return inner, nil
}

// Addr is where it listens, or before that will listen.
func (l *lateListener) Addr() net.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inner != nil {
		return l.inner.Addr()
	}
	return &net.TCPAddr{IP: net.ParseIP(l.address), Port: l.port}
}

// Close ends Accept.
func (l *lateListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.inner == nil {
		l.closed = true
		return nil
	}
	l.closed = true
	return l.inner.Close()
}

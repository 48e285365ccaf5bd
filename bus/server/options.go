package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	ns "github.com/nats-io/nats-server/v2/server"
)

// Defaults of [Options].
const (
	DefaultListen       = "127.0.0.1:4222"
	DefaultMaxStore     = 2 << 30 // bytes
	DefaultSyncInterval = time.Second
)

// Options says where the server keeps its data and where it listens.
type Options struct {
	// Dir is the data directory; required, made when absent. The streams are
	// in Dir/jetstream, the credentials in Dir/bus.creds. The caller sees to it
	// that one process at a time uses it: the server takes no lock.
	Dir string

	// Listen is an address, a loopback one without TLS, and a port; port 0 is a free one.
	// Empty: [DefaultListen].
	Listen string

	// TLS is what clients from outside of the process are served with; its
	// GetConfigForClient may renew it. Nil is plain TCP. Beyond loopback it must
	// demand client certificates.
	TLS *tls.Config

	// MaxStore bounds all streams together, in bytes. 0: [DefaultMaxStore].
	MaxStore int64

	// SyncInterval is how long an acknowledged message may stay unsynced: what
	// a power cut can lose on one machine. 0: [DefaultSyncInterval].
	SyncInterval time.Duration

	// Logger takes the server's log. Nil discards it.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Listen == "" {
		o.Listen = DefaultListen
	}
	if o.MaxStore == 0 {
		o.MaxStore = DefaultMaxStore
	}
	if o.SyncInterval == 0 {
		o.SyncInterval = DefaultSyncInterval
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// nats returns the NATS server's own options. It makes the data directory and
// the credentials, and tries the address: the NATS server tells of faults there
// by its log alone.
func (o Options) nats(localPassword string) (*ns.Options, error) {
	if o.MaxStore < 0 || o.SyncInterval < 0 {
		return nil, fmt.Errorf("bus server: max store %d and sync interval %s must be positive", o.MaxStore, o.SyncInterval)
	}
	host, port, err := listenAddress(o.Listen, o.TLS != nil && o.TLS.ClientAuth == tls.RequireAndVerifyClientCert)
	if err != nil {
		return nil, err
	}
	store, err := makeStore(o.Dir)
	if err != nil {
		return nil, err
	}
	password, err := loadOrMakePassword(o.Dir)
	if err != nil {
		return nil, err
	}
	no := &ns.Options{
		ServerName: "megaphone",
		Host:       host, Port: port,
		NoSigs:    true, // signals belong to the program
		JetStream: true, StoreDir: store,
		JetStreamMaxStore: o.MaxStore,
		SyncInterval:      o.SyncInterval,
		// The server's default of 1,000 per stream counts every reader.
		JetStreamLimits: ns.JSLimitOpts{DefaultMaxConsumers: -1},
	}
	if o.TLS != nil {
		no.TLSConfig, no.TLSVerify = o.TLS, o.TLS.ClientAuth == tls.RequireAndVerifyClientCert
	}
	if err := addUsers(no, password, localPassword); err != nil {
		return nil, err
	}
	return no, nil
}

// addUsers reads the table of permissions into no, and adds the one user that
// only this process can be.
func addUsers(no *ns.Options, password, localPassword string) error {
	conf := fmt.Sprintf("MEGAPHONE_PASSWORD: %q\n%s", password, Permissions())
	if err := no.ProcessConfigString(conf); err != nil {
		return fmt.Errorf("bus permissions: %w", err)
	}
	for _, account := range no.Accounts {
		if account.Name == roleAccount {
			no.Users = append(no.Users, &ns.User{
				Username: localUser, Password: localPassword, Account: account,
				AllowedConnectionTypes: map[string]struct{}{"IN_PROCESS": {}},
			})
		}
	}
	return nil
}

// makeStore makes the directory of the streams and tries to write there.
func makeStore(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("bus server: no data directory given; choose one with --data")
	}
	store := filepath.Join(dir, "jetstream")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return "", unwritable(dir, err)
	}
	f, err := os.CreateTemp(store, ".writable-*")
	if err != nil {
		return "", unwritable(dir, err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return "", unwritable(dir, err)
	}
	return store, nil
}

func unwritable(dir string, err error) error {
	return fmt.Errorf("data directory %s cannot be written: %w; choose another with --data", dir, cause(err))
}

// listenAddress returns host and port for the NATS server, where -1 is a free
// port, after listening there once. verified says that clients must bear certificates.
func listenAddress(listen string, verified bool) (host string, port int, err error) {
	host, service, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("listen %s: want ADDR:PORT; choose another with --bus-listen", listen)
	}
	port, err = strconv.Atoi(service)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("listen %s: the port must be a number from 0 to 65535", listen)
	}
	if !verified && !loopback(host) {
		return "", 0, fmt.Errorf("listen %s: the embedded bus has neither users nor TLS for other machines; "+
			"keep --bus-listen on a loopback address, give --bus-tls-cert, --bus-tls-key and --bus-tls-ca, or use an external NATS server with --bus URL", listen)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return "", 0, fmt.Errorf("listen %s: %w; choose another with --bus-listen", listen, cause(err))
	}
	if err := l.Close(); err != nil {
		return "", 0, fmt.Errorf("listen %s: %w", listen, err)
	}
	if port == 0 {
		port = ns.RANDOM_PORT
	}
	return host, port, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// cause strips the operation and the path, which the caller has named already,
// from an error of the operating system.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/server"
	"github.com/looprock/megaphone/pollers"
)

const (
	stopTimeout  = 4500 * time.Millisecond // SIGTERM stops within five seconds
	setupTimeout = 30 * time.Second        // until streams are there; a cluster may be choosing leaders
)

func newServe() *cobra.Command {
	return longRunning("serve", "Run everything in one process", allParts,
		"Run the bus, a worker, an aggregator and the gateway in one process. Nothing else needs to be installed.")
}

// longRunning makes a command that runs the given parts until it is told to stop.
func longRunning(name, short string, p parts, long string) *cobra.Command {
	cfg := Default()
	cmd := &cobra.Command{
		Use: name, Short: short, Args: takes(0, 0, ""),
		Long: long + "\n\nEach flag is also a variable of the environment (--bus-listen is MEGAPHONE_BUS_LISTEN) and a key of the\n" +
			"settings file (BUS_LISTEN). Flags win over the environment, which wins over the file.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.Load(cmd.Flags(), os.Getenv); err != nil {
				return err
			}
			if err := cfg.Validate(p); err != nil {
				return err
			}
			return runProcess(cmd.Context(), cfg, p, cmd.ErrOrStderr())
		},
	}
	cfg.bind(cmd.Flags(), p)
	return cmd
}

// instance is a running Megaphone: the parts that one command runs, wired together.
type instance struct {
	cfg    *Config
	parts  parts
	log    *slog.Logger
	data   *dataDir
	host   string // the local one; empty for a gateway without one
	name   string // of this process, unique among running ones
	actors actors

	server *server.Server // nil where the bus is elsewhere
	conn   *bus.Conn
	away   bool // the bus was, at the start
	reg    *bus.Registry
	local  *localChecks       // nil without checks.d
	found  *pollers.Discovery // nil without discover.d
	worker *pollers.Worker    // nil in a process without one
	ready  readiness
}

// runProcess runs the parts until ctx ends or one of them fails.
func runProcess(ctx context.Context, cfg *Config, parts parts, stderr io.Writer) (err error) {
	defer outliveLog()()
	p := &instance{
		cfg: cfg, parts: parts, log: newLogger(stderr, cfg.Verbose),
		name: parts.role() + "-" + nuid.Next(), ready: readiness{PID: os.Getpid()},
	}
	for _, note := range cfg.Notes {
		p.log.Warn(note, "config", cfg.ConfigFile)
	}
	if p.data, err = openData(cfg.Data); err != nil {
		return err
	}
	defer p.data.Close()
	if p.host, err = p.data.hostName(cfg, os.Hostname, p.log); err != nil {
		return err
	}
	if err = p.start(ctx); err == nil {
		err = p.run(ctx)
		p.log.Info("stopping")
	}
	systemd{p.log}.notify(daemon.SdNotifyStopping)
	if stopErr := p.actors.stop(stopTimeout); err == nil {
		err = stopErr
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // told to stop while starting
	}
	return err
}

// outliveLog keeps the process from ending when whoever reads its log is gone: Go
// ends one that writes to a broken pipe on stdout or stderr. The signal is taken,
// not ignored, which the programs of checks would inherit. done undoes it.
func outliveLog() (done func()) {
	pipes := make(chan os.Signal, 1) // nobody reads it
	signal.Notify(pipes, syscall.SIGPIPE)
	return func() { signal.Stop(pipes) }
}

// start brings everything up, in the order in which the parts use each other.
func (p *instance) start(ctx context.Context) error {
	if p.parts.gateway {
		if err := tryPort(ctx, p.cfg.Listen, p.cfg.Port); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context) error{
		p.startBus, p.startRegistry, p.startChecksD, p.startDiscovery, p.startWorker, p.startGateway,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return p.announce()
}

// run waits for the end.
func (p *instance) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-p.actors.failed:
		return err
	}
}

// startBus starts the embedded server, or uses the one that --bus names, and
// makes sure of the streams.
func (p *instance) startBus(ctx context.Context) error {
	connect := p.connectElsewhere
	if p.cfg.Bus == "" {
		connect = p.connectEmbedded
	}
	if err := connect(ctx); err != nil {
		return err
	}
	p.actors.onStop("bus connection", func() { _ = p.conn.Close() }) // always nil
	if p.away {
		p.log.Warn("the bus is away: answers are from the last view until it is back", "bus", p.cfg.Bus)
		p.actors.start("streams", p.setupLater)
		return nil
	}
	return p.setupBus(ctx)
}

func (p *instance) setupBus(ctx context.Context) error {
	if err := p.setup(ctx); err != nil || p.server != nil {
		return err
	}
	// An embedded server brings its own. Here any process does it for all.
	_, err := server.Gate(p.conn.NATS()) // it ends with the connection
	return err
}

// setupLater does what startBus could not, once the bus is there.
func (p *instance) setupLater(ctx context.Context) error {
	for {
		if p.conn.NATS().IsConnected() {
			err := p.setupBus(ctx)
			if err == nil || ctx.Err() != nil {
				<-ctx.Done()
				return nil
			}
			p.log.Warn("the bus is back, and not ready for us", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(busPause):
		}
	}
}

// busPause is how long a bus that is away is left alone.
const busPause = 250 * time.Millisecond

// setup makes sure of the streams. A bus that lets us in without letting us do
// that answers nothing to the client that asked: its complaint comes apart.
func (p *instance) setup(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- p.conn.Setup(ctx, bus.StreamOptions{Replicas: p.cfg.Replicas, MaxBytes: p.cfg.DataMax})
	}()
	refused := time.NewTicker(50 * time.Millisecond)
	defer refused.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-refused.C:
		}
		if errors.Is(p.conn.NATS().LastError(), nats.ErrPermissionViolation) {
			cancel()
			<-done
			return fmt.Errorf("the bus at %s does not let us use its streams: give the credentials of the role user with --bus-creds", p.cfg.Bus)
		}
	}
}

func (p *instance) connectEmbedded(ctx context.Context) error {
	certificates, err := busServerTLS(p.cfg, p.log)
	if err != nil {
		return err
	}
	s, err := server.Start(ctx, server.Options{
		Dir: p.data.path, Listen: p.cfg.BusListen, TLS: certificates, MaxStore: storeFor(p.cfg.DataMax),
		Logger: p.log.With("component", "bus"),
	})
	if err != nil {
		return err
	}
	p.server, p.ready.Bus = s, s.URL()
	p.actors.onStop("bus", s.Close)
	p.actors.start("disk of the bus", s.Run)
	nc, err := s.Connect(nats.Name("megaphone "+p.name), nats.CustomInboxPrefix(bus.RoleInbox), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	p.actors.onStop("connection to the bus", nc.Close)
	p.conn, err = bus.New(nc, bus.WithName(p.name), bus.WithLogger(p.log.With("component", "bus")))
	return err
}

// storeFor is what the embedded server may use on disk: the streams' limits do
// not count what it keeps beside the messages.
func storeFor(dataMax int64) int64 { return dataMax + dataMax/4 }

func (p *instance) connectElsewhere(ctx context.Context) error {
	opts, err := busClientTLS(p.cfg.BusTLSCert, p.cfg.BusTLSKey, p.cfg.BusTLSCA)
	if err != nil {
		return err
	}
	opts = append(opts, bus.WithName(p.name), bus.WithLogger(p.log.With("component", "bus")))
	if p.cfg.BusCreds != "" {
		opts = append(opts, bus.WithCreds(p.cfg.BusCreds))
	}
	// A gateway that knows how things were answers that, rather than nothing.
	mayBeAway := p.parts == parts{gateway: true} && exists(p.data.file(lastViewFile))
	if mayBeAway {
		opts = append(opts, bus.WithNATS(nats.RetryOnFailedConnect(true)))
	}
	conn, err := bus.Connect(ctx, p.cfg.Bus, opts...)
	if err != nil {
		return fmt.Errorf("%w; see --bus and --bus-creds", err)
	}
	p.conn, p.away = conn, mayBeAway && !conn.NATS().IsConnected()
	return nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// startChecksD registers what files say. The first pass comes before anything
// answers.
func (p *instance) startChecksD(ctx context.Context) error {
	if !p.parts.gateway && !p.parts.worker || p.cfg.ChecksD == "" || p.host == "" {
		return nil
	}
	var reg registrar
	if p.parts.gateway { // a worker alone leaves that to its host's gateway
		reg = p.reg
	}
	d := newChecksDir(p.cfg.ChecksD, p.host, p.server != nil, reg, p.log)
	p.local = d.local
	if !p.away {
		d.Sync(ctx)
	}
	p.actors.start("checks.d", d.Run)
	return nil
}

// startDiscovery reads the rules of discovery. The worker looks by them.
func (p *instance) startDiscovery(ctx context.Context) error {
	if !p.parts.worker || p.cfg.DiscoverD == "" || p.host == "" {
		return nil
	}
	path := p.data.file("discovered.json")
	remembered, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", path, cause(err))
	}
	p.found = pollers.NewDiscovery(pollers.DiscoveryConfig{
		Conn: p.conn, Registry: p.reg, Host: p.host, Logger: p.log, Remembered: remembered,
		Remember: func(b []byte) error { return writeFile(path, b, 0o600) },
	})
	d := newDiscoverDir(p.cfg.DiscoverD, p.host, p.found, p.log)
	d.Sync(ctx)
	p.actors.start("discover.d", d.Run)
	return nil
}

// announce says that everything answers: to the log, to whoever reads the ready
// file, and to systemd.
func (p *instance) announce() error {
	if file := p.cfg.ReadyFile; file != "" {
		if err := p.ready.write(file); err != nil {
			return err
		}
		p.actors.onStop("ready file", func() { removeReady(file, p.log) })
	}
	p.log.LogAttrs(context.Background(), slog.LevelInfo, "ready", p.attributes()...)
	sd := systemd{p.log}
	sd.notify(fmt.Sprintf("%s\nSTATUS=%s on %s%s", daemon.SdNotifyReady, p.parts.role(), p.host, at(p.ready.HTTP)))
	p.actors.start("watchdog", func(ctx context.Context) error { return sd.watchdog(ctx, p.healthy) })
	return nil
}

// attributes describe the process in its log, without what it does not have.
func (p *instance) attributes() []slog.Attr {
	all := []slog.Attr{
		slog.String("http", p.ready.HTTP), slog.String("bus", p.ready.Bus), slog.String("host", p.host),
		slog.String("data", p.data.path), slog.String("version", version()),
	}
	return slices.DeleteFunc(all, func(a slog.Attr) bool { return a.Value.String() == "" })
}

func at(url string) string {
	if url == "" {
		return ""
	}
	return ", " + url
}

// healthy returns once the parts that every answer needs have moved: the copy of
// registrations can be read, and an embedded server answers. A bus elsewhere that
// is away is no reason to restart this process.
func (p *instance) healthy(ctx context.Context) error {
	_ = p.reg.Position()
	if p.server == nil {
		return nil
	}
	if err := p.conn.NATS().FlushWithContext(ctx); err != nil {
		return fmt.Errorf("the bus of this process does not answer: %w", err)
	}
	return nil
}

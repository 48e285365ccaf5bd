package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
)

// Config is every setting of the long-running commands. Make one with
// [Default]; [Config.Load] fills it from flags, environment and file.
type Config struct {
	ConfigFile string // that was read; empty for none

	Listen     string // address that HTTP is served on
	Port       int    // 0 chooses a free one
	AgentCheck string // ADDR:PORT of HAProxy's agent-check; empty for none
	GRPC       string // ADDR:PORT of gRPC's health protocol; empty for none
	BusListen  string // ADDR:PORT of the embedded server
	Bus        string // URL of a server elsewhere; empty: the embedded one
	BusTLSCert string // files in PEM; of the embedded server, else of this client of it
	BusTLSKey  string
	BusTLSCA   string // of the bus's clients, or of the bus
	BusCreds   string // file with the role user's credentials there
	Data       string // directory
	Cache      string // file in the original's format
	Host       string // name of this host
	HostGiven  bool   // it was set, possibly to nothing
	Pool       string // of the worker, beside its own host's
	Interval   time.Duration
	Timeout    time.Duration // of a poll

	RegisterWait  time.Duration // how long POST /checks waits for the first result; 0 never
	ReadyFile     string        // written once everything answers
	DataMax       int64         // bytes of all streams together
	Replicas      int           // of the streams, in a cluster
	TokenFile     string        // one name:token a line
	PushTokens    string        // one "token host check [ttl]" a line
	WriteFrom     []netip.Prefix
	HTTPNames     []string // Host headers that writes without a token may bear
	Read          string   // "open", or "token": reading needs a token too
	TLSCert       string   // files in PEM; HTTP is served as HTTPS
	TLSKey        string
	TLSClientCA   string   // who bears a certificate of these may write
	Concurrency   int      // polls at once; 0 leaves it to the worker
	Canaries      []string // addresses that answer unless this worker's own network is broken
	PerHost       int      // of one host; 0 leaves it to the worker
	PollAllow     []netip.Prefix
	PollDeny      []netip.Prefix
	Credentials   string // directory of what checks name as credentials, ca and client_cert
	ChecksD       string // directory of registrations; empty for none
	ChecksDGiven  bool   // it was set, so it must exist
	DiscoverD     string // directory of rules of discovery; empty for none
	DiscoverGiven bool   // it was set, so it must exist
	Verbose       bool   // log more

	// Notes are what to log once the log exists, such as settings without effect.
	Notes []string
}

// Defaults that are no constants of another package.
const (
	defaultListen    = "0.0.0.0"
	defaultPort      = 18001
	defaultBusListen = "127.0.0.1:4222"
	defaultInterval  = 10 * time.Second
	defaultTimeout   = 10 * time.Second
	registerMargin   = 200 * time.Millisecond // beyond the timeout, for the way of the result
	minDataMax       = 16 << 20               // below, the smallest stream has no room for one large event
)

// readOpen and readToken are the values of --read.
const (
	readOpen  = "open"
	readToken = "token"
)

// Default is the configuration without flags, environment and file.
func Default() *Config {
	return &Config{
		Listen: defaultListen, Port: defaultPort, BusListen: defaultBusListen,
		Pool: events.DefaultPool, Interval: defaultInterval, Timeout: defaultTimeout,
		RegisterWait: -1, DataMax: bus.DefaultMaxData, Replicas: 1, Read: readOpen,
		WriteFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	}
}

// parts says which settings a command has beside those that all share.
type parts struct {
	server     bool // may run the embedded server
	worker     bool
	aggregator bool
	gateway    bool
}

// allParts are those of `serve`; the other commands have one.
var allParts = parts{server: true, worker: true, aggregator: true, gateway: true}

// role is the name of what a process with these parts is.
func (p parts) role() string {
	switch {
	case p.server:
		return "serve"
	case p.worker:
		return "poller"
	case p.aggregator:
		return "aggregator"
	}
	return "gateway"
}

// bind declares the flags of c. The name of a flag is that of its setting:
// --bus-listen is MEGAPHONE_BUS_LISTEN and BUS_LISTEN.
func (c *Config) bind(fs *pflag.FlagSet, p parts) {
	fs.SortFlags = false
	if p.gateway {
		fs.StringVar(&c.Listen, "listen", c.Listen, "address to serve HTTP on")
		fs.Var((*intValue)(&c.Port), "port", "port to serve HTTP on; 0 chooses a free one")
	}
	if p.server {
		fs.StringVar(&c.BusListen, "bus-listen", c.BusListen, "`ADDR:PORT` of the embedded NATS server; port 0 chooses a free one")
	}
	fs.StringVar(&c.Bus, "bus", c.Bus, "`URL` of a NATS server elsewhere, instead of the embedded one")
	fs.StringVar(&c.BusCreds, "bus-creds", c.BusCreds, "`FILE` with user:password for --bus; `serve` writes one into its data directory")
	fs.StringVar(&c.BusTLSCert, "bus-tls-cert", c.BusTLSCert, "`FILE` with the certificate of the embedded bus, or with --bus of this client; read again when it changes")
	fs.StringVar(&c.BusTLSKey, "bus-tls-key", c.BusTLSKey, "`FILE` with its key")
	fs.StringVar(&c.BusTLSCA, "bus-tls-ca", c.BusTLSCA, "`FILE` with the authorities of the embedded bus's clients, or with --bus of the bus")
	fs.StringVar(&c.Data, "data", c.Data, "data `DIR` (default $STATE_DIRECTORY, /var/lib/megaphone for root, or megaphone in $XDG_STATE_HOME)")
	fs.StringVar(&c.Host, "host", c.Host, "`NAME` of this host (default the one stored at the first start, else the machine's)")
	fs.Var((*durationValue)(&c.Interval), "interval", "between two polls of a check that does not say")
	fs.Var((*durationValue)(&c.Timeout), "timeout", "of a poll of a check that does not say")
	if p.worker {
		fs.StringVar(&c.Pool, "pool", c.Pool, "pool whose checks to poll, beside those of this host")
		fs.Var((*intValue)(&c.Concurrency), "concurrency", "polls at once that take less than a second; four times as many may take longer; 0 means 256")
		fs.Var(manyValue{(*listValue)(&c.Canaries)}, "canary", "`URLS` that answer unless this worker's own network is broken; while none does, what it finds does not count")
		fs.Var((*intValue)(&c.PerHost), "per-host", "polls at once of one host, half of them of one port; 0 means 32")
		fs.Var((*prefixesValue)(&c.PollAllow), "poll-allow", "the only ones to poll, by the address that is dialled (default all but link-local and metadata addresses)")
		fs.Var((*prefixesValue)(&c.PollDeny), "poll-deny", "never to poll")
		fs.StringVar(&c.Credentials, "credentials", c.Credentials, "`DIR` of the credentials, ca and client_cert that checks name (default $CREDENTIALS_DIRECTORY, or credentials in the data directory)")
	}
	if p.gateway || p.worker {
		fs.StringVar(&c.ChecksD, "checks-d", c.ChecksD, "`DIR` of registrations as *.json (default checks.d beside the settings file)")
	}
	if p.worker {
		fs.StringVar(&c.DiscoverD, "discover-d", c.DiscoverD, "`DIR` of rules of discovery as *.json (default discover.d beside the settings file)")
	}
	if p.gateway {
		c.bindGateway(fs)
	}
	fs.Var((*sizeValue)(&c.DataMax), "data-max", "of all streams together")
	fs.Var((*intValue)(&c.Replicas), "replicas", "of the streams, in a NATS cluster: 1, 3 or 5")
	fs.StringVar(&c.ReadyFile, "ready-file", c.ReadyFile, "`FILE` to write the addresses to once everything answers")
	fs.StringVar(&c.ConfigFile, "config", c.ConfigFile, "`FILE` of settings (default megaphone.conf in $XDG_CONFIG_HOME/megaphone, /etc/megaphone or .)")
	fs.Var((*boolValue)(&c.Verbose), "verbose", "log more")
	fs.Lookup("verbose").NoOptDefVal = "true"
}

func (c *Config) bindGateway(fs *pflag.FlagSet) {
	fs.StringVar(&c.AgentCheck, "agent-check", c.AgentCheck, "`ADDR:PORT` to answer HAProxy's agent-check on, to everyone; port 0 chooses a free one (default none)")
	fs.StringVar(&c.GRPC, "grpc", c.GRPC, "`ADDR:PORT` to answer gRPC's health protocol on; port 0 chooses a free one (default none)")
	fs.StringVar(&c.Cache, "cache", c.Cache, "`FILE` of this host's checks in the original's format (default cache.json in the data directory)")
	fs.Var((*durationValue)(&c.RegisterWait), "register-wait", "how long POST /checks waits for the first result; 0 never (default the timeout + 0.2s)")
	fs.StringVar(&c.TokenFile, "token-file", c.TokenFile, "`FILE` with a name:token a line, for those who may write")
	fs.StringVar(&c.PushTokens, "push-tokens", c.PushTokens, "`FILE` with a \"token host check [ttl]\" a line, for pushes to /compat")
	fs.Var((*prefixesValue)(&c.WriteFrom), "write-from", "who may write without a token")
	fs.Var((*listValue)(&c.HTTPNames), "http-names", "`NAMES` of this server that writes without a token may be addressed to")
	fs.StringVar(&c.TLSCert, "tls-cert", c.TLSCert, "`FILE` with the certificate chain to serve HTTPS with; read again when it changes")
	fs.StringVar(&c.TLSKey, "tls-key", c.TLSKey, "`FILE` with its key")
	fs.StringVar(&c.TLSClientCA, "tls-client-ca", c.TLSClientCA, "`FILE` with the authorities whose clients may write")
	fs.StringVar(&c.Read, "read", c.Read, "who may read: open (anyone) or token")
}

// Load settles c: what no flag of fs has set comes from the environment, else
// from the file, else stays the default. It does not validate.
func (c *Config) Load(fs *pflag.FlagSet, env func(string) string) error {
	file, err := c.readFile(fs, env)
	if err != nil {
		return err
	}
	var faults []error
	fs.VisitAll(func(f *pflag.Flag) {
		source, text, ok := settingOf(f, env, file)
		if !ok || f.Name == "config" {
			return
		}
		if err := f.Value.Set(text); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w (--%s)", source, err, f.Name))
		}
		c.given(f.Name)
	})
	for _, name := range []string{"host", "checks-d", "discover-d"} {
		if fs.Changed(name) {
			c.given(name)
		}
	}
	if c.Data == "" {
		c.Data = dataDefault(env, os.Geteuid())
	}
	c.legacy(fs, env, file, &faults)
	if c.RegisterWait < 0 {
		c.RegisterWait = c.Timeout + registerMargin
	}
	if c.Cache == "" {
		c.Cache = filepath.Join(c.Data, "cache.json")
	}
	if c.Credentials == "" {
		c.Credentials = env("CREDENTIALS_DIRECTORY")
	}
	if c.Credentials == "" {
		c.Credentials = filepath.Join(c.Data, "credentials")
	}
	if !c.ChecksDGiven {
		c.ChecksD = besideConfig(checksDName, c.ConfigFile, env)
	}
	if !c.DiscoverGiven {
		c.DiscoverD = besideConfig(discoverDName, c.ConfigFile, env)
	}
	return errors.Join(faults...)
}

func (c *Config) given(name string) {
	switch name {
	case "host":
		c.HostGiven = true
	case "checks-d":
		c.ChecksDGiven = true
	case "discover-d":
		c.DiscoverGiven = true
	}
}

// settingOf looks a setting up outside of the flags. An empty variable is as none.
func settingOf(f *pflag.Flag, env func(string) string, file settings) (source, text string, ok bool) {
	if f.Changed {
		return "", "", false
	}
	key := keyOf(f.Name)
	if text := env(envPrefix + key); text != "" {
		return envPrefix + key + "=" + text, text, true
	}
	if text, ok := file.get(key); ok {
		return fmt.Sprintf("%s = %s in %s", key, text, file.path), text, true
	}
	return "", "", false
}

// legacy reads the settings of the original that have no flag.
func (c *Config) legacy(fs *pflag.FlagSet, env func(string) string, file settings, faults *[]error) {
	dir, hasDir := file.get("CACHEDIR")
	name, hasName := file.get("CACHEFILE")
	if c.Cache == "" && (hasDir || hasName) {
		if !hasName {
			name = "megaphone.json" // the original's
		}
		if !hasDir {
			dir = c.Data
		}
		c.Cache = filepath.Join(dir, name)
	}
	var ignored []string
	for _, key := range []string{"DEBUG", "QUIET", "WSGISERVER"} {
		text, ok := file.get(key)
		if v := env(envPrefix + key); v != "" {
			text, ok = v, true
		}
		if !ok {
			continue
		}
		ignored = append(ignored, key)
		var is boolValue
		if err := is.Set(text); err != nil && key != "WSGISERVER" {
			*faults = append(*faults, fmt.Errorf("%s: %w", key, err))
		}
	}
	ignored = append(ignored, file.unknown(fs)...)
	if len(ignored) > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("settings without effect: %v", ignored))
	}
}

// Validate returns all faults, each with the flag and its value. p are the parts
// that are to run.
func (c *Config) Validate(p parts) error {
	var faults []error
	wrong := func(bad bool, flag string, value any, want string) {
		if bad {
			faults = append(faults, fmt.Errorf("--%s %v: %s", flag, value, want))
		}
	}
	wrong(c.Listen == "", "listen", `""`, "give an address, such as 127.0.0.1")
	wrong(c.Port < 0 || c.Port > 65535, "port", c.Port, "a port is 0 to 65535")
	wrong(!isAddress(c.BusListen), "bus-listen", c.BusListen, "write it as ADDR:PORT, such as 127.0.0.1:4222")
	wrong(c.AgentCheck != "" && !isAddress(c.AgentCheck), "agent-check", c.AgentCheck, "write it as ADDR:PORT, such as 127.0.0.1:18002")
	wrong(c.AgentCheck != "" && c.Read == readToken, "agent-check", c.AgentCheck, "it cannot be asked for a token: it does not go with --read token")
	wrong(c.GRPC != "" && !isAddress(c.GRPC), "grpc", c.GRPC, "write it as ADDR:PORT, such as 127.0.0.1:18003")
	wrong(c.Bus == "" && !p.server, "bus", `""`, "name the bus, such as nats://bus1.example.com:4222")
	wrong(c.HostGiven && c.Host == "" && p.worker, "host", `""`, "a worker polls for its host; only a gateway may do without one")
	wrong(c.Bus == "" && p.server && c.BusCreds != "", "bus-creds", c.BusCreds, "it belongs to --bus URL, which is not given")
	if c.Host != "" {
		name, err := events.ParseHost(c.Host)
		wrong(err != nil, "host", c.Host, fmt.Sprint(err))
		c.Host = name
	}
	if _, err := events.ParsePool(c.Pool); err != nil {
		wrong(true, "pool", c.Pool, err.Error())
	}
	wrong(c.Interval < events.MinDuration, "interval", c.Interval, fmt.Sprintf("it must be at least %s", events.MinDuration))
	wrong(c.Timeout < events.MinDuration, "timeout", c.Timeout, fmt.Sprintf("it must be at least %s", events.MinDuration))
	wrong(c.DataMax < minDataMax, "data-max", (*sizeValue)(&c.DataMax), "it must be at least 16MiB")
	wrong(!slices.Contains([]int{1, 3, 5}, c.Replicas), "replicas", c.Replicas, "use 1, 3 or 5")
	wrong(c.Bus == "" && p.server && c.Replicas != 1, "replicas", c.Replicas, "the embedded server is one machine: use --bus with a cluster")
	wrong(c.Concurrency < 0, "concurrency", c.Concurrency, "it must not be negative")
	for _, addr := range c.Canaries {
		_, err := pollers.CanaryTarget(addr)
		wrong(err != nil, "canary", addr, fmt.Sprint(err))
	}
	wrong(c.PerHost < 0, "per-host", c.PerHost, "it must not be negative")
	wrong(c.Read != readOpen && c.Read != readToken, "read", c.Read, "use open or token")
	wrong(c.Read == readToken && c.TokenFile == "" && c.TLSClientCA == "", "read", c.Read, "it needs --token-file or --tls-client-ca")
	wrong(c.BusTLSCert != "" && c.BusTLSKey == "", "bus-tls-cert", c.BusTLSCert, "it needs --bus-tls-key")
	wrong(c.BusTLSKey != "" && c.BusTLSCert == "", "bus-tls-key", c.BusTLSKey, "it needs --bus-tls-cert")
	wrong(c.BusTLSCA != "" && c.BusTLSCert == "" && c.Bus == "", "bus-tls-ca", c.BusTLSCA, "it needs --bus-tls-cert and --bus-tls-key")
	wrong(c.TLSCert != "" && c.TLSKey == "", "tls-cert", c.TLSCert, "it needs --tls-key")
	wrong(c.TLSKey != "" && c.TLSCert == "", "tls-key", c.TLSKey, "it needs --tls-cert")
	wrong(c.TLSClientCA != "" && c.TLSCert == "", "tls-client-ca", c.TLSClientCA, "it needs --tls-cert and --tls-key")
	wrong(c.ChecksDGiven && !isDirectory(c.ChecksD), "checks-d", c.ChecksD, "it must be a directory")
	wrong(c.DiscoverGiven && !isDirectory(c.DiscoverD), "discover-d", c.DiscoverD, "it must be a directory")
	return errors.Join(faults...)
}

// isDirectory reports whether a path is one; an empty one stands for none.
func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return path == "" || err == nil && info.IsDir()
}

// isAddress reports whether text is ADDR:PORT.
func isAddress(text string) bool {
	_, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	return err == nil
}

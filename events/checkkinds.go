package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
)

// CheckKind is a way to look at a service: what the scheme of an addr asks for.
type CheckKind struct {
	Scheme  string   // in lower case
	Local   bool     // runs programs or reads this machine: only from its own configuration
	Sample  string   // of an addr
	Options []string // keys of an object url beside addr, jsonpath and statusoverride
	about   func(k CheckKind, t Target, o Options) error
}

// Groups of options.
var (
	httpOptions = []string{
		"method", "body", "headers", "expect_code", "expect_body", "expect_header", "dialect", "credentials",
		"ca", "client_cert", "server_name", "cert_warning_days", "cert_critical_days",
	}
	talkOptions = []string{"body", "expect_body"}
	certOptions = []string{"ca", "client_cert", "server_name", "cert_warning_days", "cert_critical_days"}
)

var checkKinds = []CheckKind{
	{"http", false, "http://localhost:8080/status", httpOptions, anyHost},
	{"https", false, "https://www.example.com/health", httpOptions, anyHost},
	{"tcp", false, "tcp://db.example.com:5432", talkOptions, hostAndPort},
	{"tls", false, "tls://mail.example.com:993", append(slices.Clone(talkOptions), certOptions...), hostAndPort},
	{"dns", false, "dns://192.0.2.53/www.example.com", []string{"type", "expect_body", "min_count"}, dnsAddress},
	{"icmp", false, "icmp://router.example.com", []string{"count"}, anyHost},
	{"grpc", false, "grpc://localhost:9000/package.Service", []string{"credentials"}, hostAndPort},
	{"grpcs", false, "grpcs://api.example.com:443/package.Service", append([]string{"credentials"}, certOptions...), hostAndPort},
	{"nats", false, "nats://bus.example.com:4222/$SRV.PING.orders", []string{"body", "expect_body", "credentials", "ca", "client_cert", "min_count"}, natsAddress},
	{"exec", true, "exec:/usr/lib/nagios/plugins/check_load", []string{"args", "env"}, absolutePath},
	{"process", true, "process:nginx", []string{"command", "min_count", "max_count", "min_age", "memory_warning_bytes", "memory_critical_bytes"}, processName},
	{"systemd", true, "systemd:nginx.service", []string{"expect_state"}, unitName},
	{"file", true, "file:/var/lib/backup/stamp", []string{"dialect", "age_warning", "age_critical", "min_size_bytes", "size_warning_bytes", "size_critical_bytes"}, absolutePath},
}

// CheckKinds returns the table of all kinds of check. The caller must not change
// what the entries hold.
func CheckKinds() []CheckKind { return slices.Clone(checkKinds) }

// FindCheckKind returns the kind of check that an addr asks for.
func FindCheckKind(addr string) (CheckKind, bool) {
	scheme := Scheme(addr)
	for _, k := range checkKinds {
		if k.Scheme == scheme {
			return k, true
		}
	}
	return CheckKind{}, false
}

// Scheme returns the scheme of an addr in lower case; empty where it has none.
// Whatever decides by scheme must take it from here, or two may differ.
func Scheme(addr string) string {
	scheme, _, ok := strings.Cut(addr, ":")
	if !ok {
		return ""
	}
	return strings.ToLower(scheme)
}

// LocalPath returns what follows the scheme of a local kind's addr: a path, or a
// name. "exec:///bin/true" and "exec:/bin/true" are the same.
func LocalPath(addr string) string {
	_, rest, _ := strings.Cut(addr, ":")
	if after, ok := strings.CutPrefix(rest, "//"); ok && strings.HasPrefix(after, "/") {
		return after
	}
	return rest
}

// ErrLocal is wrapped by the error about a check of a local kind that does not
// come from the host's own configuration.
var ErrLocal = errors.New("only from checks.d on the host itself")

// OriginFile begins the origin of a registration that a file of the local
// configuration owns; the name of the file follows.
const OriginFile = "file:"

// OriginDiscovered begins the origin of a registration that a rule of the local
// configuration made; the name of the rule follows.
const OriginDiscovered = "discovered:"

// LocalOrigin reports whether an origin is one of the local configuration, which
// nothing that comes over the network may claim.
func LocalOrigin(origin string) bool {
	return strings.HasPrefix(origin, OriginFile) || strings.HasPrefix(origin, OriginDiscovered)
}

// Local reports whether the check runs a program or looks at the machine itself.
func (r Registration) Local() bool {
	t, err := r.Target()
	if err != nil {
		return false
	}
	k, ok := FindCheckKind(t.Addr)
	return ok && k.Local
}

// validateLocal refuses what the network must not register. A file is let pass
// where strict is false: the original took it and said Critical, and so do
// workers, without opening it.
func (r Registration) validateLocal(t Target, strict bool) error {
	k, ok := FindCheckKind(t.Addr)
	if !ok || !k.Local || LocalOrigin(r.Origin) || k.Scheme == "file" && !strict {
		return nil
	}
	return fmt.Errorf("%w: a check of kind %s is taken %w: nothing that is registered over the network can run a program or read a file",
		ErrRegistration, k.Scheme, ErrLocal)
}

// validateTarget checks an address and its options by the table of kinds.
func validateTarget(r Registration, t Target) error {
	if t.Addr == "" {
		return fmt.Errorf("%w: url has no addr", ErrRegistration)
	}
	k, ok := FindCheckKind(t.Addr)
	switch {
	case ok:
	case !strings.Contains(t.Addr, "://"):
		return fmt.Errorf("%w: %q is not an address such as http://localhost:8080/status", ErrRegistration, t.Addr)
	default:
		return fmt.Errorf("%w: no kind of check polls %s: use one of %s", ErrRegistration, Scheme(t.Addr), strings.Join(schemes(), ", "))
	}
	o, err := t.ParseOptions()
	if err == nil {
		err = k.ownKeys(r.URL)
	}
	if err == nil {
		err = o.validate()
	}
	if err == nil {
		err = k.about(k, t, o)
	}
	if err != nil && !errors.Is(err, ErrRegistration) {
		err = fmt.Errorf("%w: %w", ErrRegistration, err)
	}
	return err
}

func schemes() (all []string) {
	for _, k := range checkKinds {
		all = append(all, k.Scheme)
	}
	return all
}

// ownKeys refuses keys of a url that its kind does not have: they are slips of
// the pen, and a check that looks at less than was meant is worse than none.
func (k CheckKind) ownKeys(raw json.RawMessage) error {
	var o map[string]json.RawMessage
	if json.Unmarshal(raw, &o) != nil {
		return nil // a string
	}
	known := append([]string{"addr", "jsonpath", "statusoverride"}, k.Options...)
	for name := range o {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%w: url: a check of kind %s has no %q, it has %s", ErrRegistration, k.Scheme, name, strings.Join(known, ", "))
		}
	}
	return nil
}

func (k CheckKind) bad(t Target) error {
	return fmt.Errorf("%w: %q is not an address such as %s", ErrRegistration, t.Addr, k.Sample)
}

func anyHost(k CheckKind, t Target, _ Options) error {
	u, err := url.Parse(t.Addr)
	if err != nil || u.Hostname() == "" {
		return k.bad(t)
	}
	return nil
}

func hostAndPort(k CheckKind, t Target, _ Options) error {
	u, err := url.Parse(t.Addr)
	if err != nil || u.Hostname() == "" || u.Port() == "" {
		return k.bad(t)
	}
	return nil
}

func dnsAddress(k CheckKind, t Target, _ Options) error {
	u, err := url.Parse(t.Addr)
	if err != nil || u.Opaque != "" || strings.Trim(u.Path, "/") == "" {
		return k.bad(t)
	}
	return nil
}

func natsAddress(k CheckKind, t Target, _ Options) error {
	u, err := url.Parse(t.Addr)
	if err != nil || u.Opaque != "" {
		return k.bad(t)
	}
	return RequestSubject(strings.TrimPrefix(u.Path, "/"), u.Host == "")
}

// RequestSubject refuses a subject to which a check may not send a request. own
// says that it goes over the worker's own connection, whose rights are more than
// those of whoever registered the check.
func RequestSubject(subject string, own bool) error {
	if subject == "" || strings.ContainsAny(subject, " \t\r\n*>") || slices.Contains(strings.Split(subject, "."), "") {
		return fmt.Errorf("%w: %q is not a subject such as $SRV.PING.orders", ErrRegistration, subject)
	}
	first, _, _ := strings.Cut(subject, ".")
	if own && first != "$SRV" && (strings.HasPrefix(first, "$") || strings.HasPrefix(first, "_") || strings.EqualFold(first, "megaphone")) {
		return fmt.Errorf("%w: a check must not send to %s over the worker's own connection", ErrRegistration, subject)
	}
	return nil
}

func absolutePath(k CheckKind, t Target, _ Options) error {
	if p := LocalPath(t.Addr); !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) {
		return k.bad(t)
	}
	return nil
}

func processName(_ CheckKind, t Target, o Options) error {
	if LocalPath(t.Addr) == "" && o.Command == "" {
		return fmt.Errorf("%w: give the name of the process, as in process:nginx, or a pattern of its command line as command", ErrRegistration)
	}
	return nil
}

func unitName(k CheckKind, t Target, _ Options) error {
	if name := LocalPath(t.Addr); name == "" || strings.ContainsAny(name, "/ ") {
		return k.bad(t)
	}
	return nil
}

// localHostOf reports whether only the check's own host can look at t.
func localHostOf(t Target) bool {
	if k, ok := FindCheckKind(t.Addr); ok && k.Local {
		return true
	}
	u, err := url.Parse(t.Addr)
	if err != nil {
		return true
	}
	if u.Scheme == "nats" && u.Host == "" {
		return false // the bus, which every worker reaches
	}
	return localName(u.Hostname())
}

func localName(name string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if name == "" || name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip := net.ParseIP(name)
	return ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
}

package pollers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	gopsnet "github.com/shirou/gopsutil/v4/net"
)

// source is where a rule looks.
type source string

const (
	fromProcesses source = "process"
	fromUnits     source = "unit"
	fromServices  source = "service"
)

// thing is one that was found: what its variables stand for.
type thing map[string]string

// look is what is there of a source. With an error nothing is known of it.
type look struct {
	things []thing
	err    error
}

// socket is one that listens, TCP only.
type socket struct {
	pid int32 // 0 where the system does not tell
	at  netip.AddrPort
}

// listening returns the sockets of this machine that listen, ordered by port.
// Those in other network namespaces, of containers, are not this machine's.
func listening(ctx context.Context) ([]socket, error) {
	all, err := gopsnet.ConnectionsWithoutUidsWithContext(ctx, "tcp")
	if err != nil {
		return nil, fmt.Errorf("look at the sockets: %w", err)
	}
	var sockets []socket
	for _, c := range all {
		ip, err := netip.ParseAddr(c.Laddr.IP)
		if c.Status != "LISTEN" || err != nil || c.Laddr.Port == 0 || c.Laddr.Port > 65535 {
			continue
		}
		sockets = append(sockets, socket{c.Pid, netip.AddrPortFrom(ip.Unmap(), uint16(c.Laddr.Port))})
	}
	slices.SortFunc(sockets, func(a, b socket) int {
		if a.at.Port() != b.at.Port() {
			return int(a.at.Port()) - int(b.at.Port())
		}
		return a.at.Addr().Compare(b.at.Addr())
	})
	return sockets, nil
}

// loopback reports whether the socket takes connections to this machine's own
// addresses 127.0.0.1 or ::1.
func (s socket) loopback() bool {
	ip := s.at.Addr()
	return ip.IsUnspecified() || ip == netip.IPv6Loopback() || ip == netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// address is how the socket is reached from here, as it stands before ":port".
// The name localhost is both loopback addresses.
func (s socket) address() string {
	switch ip := s.at.Addr(); {
	case s.loopback():
		return "localhost"
	case ip.Is6():
		return "[" + ip.String() + "]"
	default:
		return ip.String()
	}
}

// looker looks at the processes, and at the sockets once a rule needs them, and
// returns what a rule finds among them.
func (p *processes) looker(ctx context.Context) func(*rule) look {
	all, err := p.list(ctx)
	sockets := sync.OnceValues(func() (map[int32][]socket, error) {
		open, err := listening(ctx)
		byPID := map[int32][]socket{}
		for _, s := range open {
			byPID[s.pid] = append(byPID[s.pid], s)
		}
		return byPID, err
	})
	return func(r *rule) look {
		if err != nil {
			return look{err: err}
		}
		chosen := slices.DeleteFunc(slices.Clone(all), func(one running) bool {
			return r.Process.Name != "" && one.name != r.Process.Name || r.pattern != nil && !r.pattern.MatchString(one.command)
		})
		if len(chosen) == 0 || !r.wantsSockets() {
			return look{things: r.processThings(chosen)}
		}
		open, err := sockets()
		if err != nil {
			return look{err: err}
		}
		return r.socketThings(ctx, chosen, open)
	}
}

func (r *rule) processThings(all []running) (things []thing) {
	for _, one := range all {
		things = append(things, thing{"name": one.name, "pid": strconv.Itoa(int(one.Pid)), "host": r.host})
	}
	return things
}

// socketThings are processes with each of their sockets. The error is about those
// whose sockets the system does not show.
func (r *rule) socketThings(ctx context.Context, all []running, sockets map[int32][]socket) (l look) {
	for i, t := range r.processThings(all) {
		own := sockets[all[i].Pid]
		for _, s := range own {
			one := maps.Clone(t)
			one["port"], one["address"] = strconv.Itoa(int(s.at.Port())), s.address()
			l.things = append(l.things, one)
		}
		if len(own) > 0 {
			continue
		}
		if _, err := all[i].NumFDsWithContext(ctx); errors.Is(err, fs.ErrPermission) {
			l.err = fmt.Errorf("the system does not show the sockets of %s (process %s) to this user", t["name"], t["pid"])
		}
	}
	return l
}

// wantsSockets reports whether a process is one of the rule's only where it listens.
func (r *rule) wantsSockets() bool { return r.uses["port"] || r.uses["address"] }

// unitListed is an element of what systemd's ListUnits returns.
type unitListed struct {
	Name, Description, Load, Active, Sub, Following string
	Path                                            dbus.ObjectPath
	Job                                             uint32
	JobType                                         string
	JobPath                                         dbus.ObjectPath
}

// listUnits asks systemd for the units that it has loaded.
func listUnits(ctx context.Context) (units []unitListed, err error) {
	err = onSystemBus(ctx, func(conn *dbus.Conn) error {
		return conn.Object(systemd1, "/org/freedesktop/systemd1").CallWithContext(ctx, systemd1+".Manager.ListUnits", 0).Store(&units)
	})
	if err != nil {
		return nil, fmt.Errorf("systemd could not be asked over D-Bus: %w", err)
	}
	return units, nil
}

// unitThings are the units that a rule selects. One that failed is there; one
// that was stopped, or that others only name, is not.
func unitThings(r *rule, units []unitListed) (things []thing) {
	for _, u := range units {
		if u.Load != "loaded" || u.Active == "inactive" || !r.pattern.MatchString(u.Name) {
			continue
		}
		name := u.Name[:max(strings.LastIndexByte(u.Name, '.'), 0)]
		things = append(things, thing{"unit": u.Name, "name": name, "host": r.host})
	}
	return things
}

const (
	maxAnswers   = 4096 // instances of services that are remembered
	pingsMissed  = 2    // in a row, by which an instance has vanished
	maxPingBytes = 16 << 10
)

// pinger asks for the NATS micro services of a bus. An instance is there from its
// first answer until it has missed pingsMissed questions in a row.
type pinger struct {
	conn *nats.Conn
	wake func() // called when an instance answers for the first time

	sub   *nats.Subscription // nil before the first ask
	last  time.Time          // when it was asked
	mu    sync.Mutex
	asked int
	known map[string]instance // by id
}

type instance struct {
	service, version string
	answered         int // the question
}

// Why nothing is known of services.
var (
	errAway  = errors.New("the bus is away")
	errEarly = errors.New("they were not asked often enough")
)

// ask sends the question, and returns the instances that are there by id. The
// answers wake whoever asks again. The error says why others may be there, too.
func (p *pinger) ask(ctx context.Context) (map[string]instance, error) {
	if p.conn == nil || !p.conn.IsConnected() {
		return p.present(), errAway
	}
	err := p.send(ctx)
	there := p.present()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		return there, fmt.Errorf("ask for services: %w", err)
	case p.asked <= pingsMissed:
		return there, errEarly
	}
	return there, nil
}

func (p *pinger) send(ctx context.Context) (err error) {
	if p.sub == nil {
		if p.sub, err = p.conn.Subscribe(p.conn.NewInbox(), p.answer); err != nil {
			return err
		}
	}
	if time.Since(p.last) < LookInterval {
		return nil // looked sooner, because somebody answered: others are given their time
	}
	p.last = time.Now()
	p.mu.Lock()
	p.asked++
	p.mu.Unlock()
	if err := p.conn.PublishRequest(micro.APIPrefix+".PING", p.sub.Subject, nil); err != nil {
		return err
	}
	return p.conn.FlushWithContext(ctx)
}

func (p *pinger) answer(m *nats.Msg) {
	var ping micro.Ping
	if len(m.Data) > maxPingBytes || json.Unmarshal(m.Data, &ping) != nil || ping.Type != micro.PingResponseType {
		return // nobody is there, or it is none
	}
	p.mu.Lock()
	_, old := p.known[ping.ID]
	if !old && len(p.known) >= maxAnswers {
		p.mu.Unlock()
		return
	}
	p.known[ping.ID] = instance{ping.Name, ping.Version, p.asked}
	p.mu.Unlock()
	if !old {
		p.wake()
	}
}

// present returns the instances that are there, by id.
func (p *pinger) present() map[string]instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	there := make(map[string]instance, len(p.known))
	for id, i := range p.known {
		if p.asked-i.answered > pingsMissed {
			delete(p.known, id)
			continue
		}
		there[id] = i
	}
	return there
}

// stop ends the subscription, and forgets who answered.
func (p *pinger) stop() {
	if p.sub != nil {
		_ = p.sub.Unsubscribe() // only fails where the connection is gone
		p.sub, p.last = nil, time.Time{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.known = 0, map[string]instance{}
}

// serviceThings are the services that a rule selects.
func serviceThings(r *rule, there map[string]instance) (things []thing) {
	for id, i := range there {
		if r.pattern.MatchString(i.service) {
			things = append(things, thing{"service": i.service, "id": id, "version": i.version, "host": r.host})
		}
	}
	slices.SortFunc(things, func(a, b thing) int { return strings.Compare(a["id"], b["id"]) })
	return things
}

package pollers

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"time"

	"github.com/looprock/megaphone/events"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// icmpSeen is the document of echo requests.
type icmpSeen struct {
	Address    string   `json:"address"`
	Sent       int      `json:"sent"`
	Received   int      `json:"received"`
	MinSeconds *float64 `json:"min_seconds,omitempty"`
}

var errNoICMP = errors.New("this system forbids echo requests without privileges: " +
	"sysctl net.ipv4.ping_group_range='0 2147483647' allows them, and so does CAP_NET_RAW")

// echoPause is between two echo requests, also where one is not answered.
const echoPause = 200 * time.Millisecond

// icmp sends echo requests: icmp://host. All lost is Critical, some are Warning.
func (n network) icmp(ctx context.Context, t events.Target, o events.Options) Finding {
	u, err := url.Parse(t.Addr)
	if err != nil {
		return failed(t, fmt.Errorf("%q is not an address", t.Addr))
	}
	ip, err := n.resolve(ctx, u.Hostname())
	if err != nil {
		return failed(t, plainly(ctx, "ping "+u.Hostname(), err))
	}
	seen, err := ping(ctx, ip, max(o.Count, 1))
	switch {
	case errors.Is(err, errNoICMP):
		f := failed(t, err)
		if t.Override == "" {
			f.Status = events.Unknown // nothing was looked at
		}
		return f
	case err != nil:
		return failed(t, plainly(ctx, "ping "+u.Hostname(), err))
	}
	text := fmt.Sprintf("%s answers", u.Hostname())
	switch seen.Received {
	case seen.Sent:
		return found(t, events.OK, text, seen)
	case 0:
		return found(t, events.Critical, fmt.Sprintf("%s does not answer: %d of %d echo requests were lost", u.Hostname(), seen.Sent, seen.Sent), seen)
	}
	return found(t, events.Warning, fmt.Sprintf("%s: %d of %d echo requests were lost", text, seen.Sent-seen.Received, seen.Sent), seen)
}

// resolve returns the first address of a name that may be polled.
func (n network) resolve(ctx context.Context, host string) (netip.Addr, error) {
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, ip := range list {
		if err = n.guard.check(ip); err == nil {
			return ip.Unmap(), nil
		}
	}
	return netip.Addr{}, err
}

// protocol is what differs between the two versions of IP.
type protocol struct {
	datagram, raw, any string
	number             int
	request, reply     icmp.Type
}

func protocolOf(ip netip.Addr) protocol {
	if ip.Is4() {
		return protocol{"udp4", "ip4:icmp", "0.0.0.0", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply}
	}
	return protocol{"udp6", "ip6:ipv6-icmp", "::", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply}
}

// open returns a socket that needs no privileges, else one that does.
func (p protocol) open() (c *icmp.PacketConn, datagram bool, err error) {
	if c, err = icmp.ListenPacket(p.datagram, p.any); err == nil {
		return c, true, nil
	}
	if c, err = icmp.ListenPacket(p.raw, p.any); err == nil {
		return c, false, nil
	}
	if errors.Is(err, os.ErrPermission) {
		err = errNoICMP
	}
	return nil, false, err
}

// ping sends count requests, one after another, and waits for each answer: until
// ctx ends for the only one, else for its share of that time.
func ping(ctx context.Context, ip netip.Addr, count int) (icmpSeen, error) {
	seen := icmpSeen{Address: ip.String()}
	p := protocolOf(ip)
	conn, datagram, err := p.open()
	if err != nil {
		return seen, err
	}
	defer conn.Close()
	defer closeAfter(ctx, conn)()
	var to net.Addr = &net.IPAddr{IP: ip.AsSlice(), Zone: ip.Zone()}
	if datagram {
		to = &net.UDPAddr{IP: ip.AsSlice(), Zone: ip.Zone()}
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(DefaultTimeout)
	}
	share := time.Until(deadline) / time.Duration(count+1)
	for i := range count {
		if i > 0 && !sleep(ctx, min(echoPause, share)) {
			break
		}
		seen.Sent++
		took, err := p.echo(conn, to, i+1, time.Now().Add(share))
		switch {
		case err == nil:
			seen.Received++
			if s := microseconds(took); seen.MinSeconds == nil || s < *seen.MinSeconds {
				seen.MinSeconds = &s
			}
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return seen, err
		}
	}
	return seen, nil
}

// echo sends one request and waits for its answer. An answer is known by what it
// brings back: the kernel chooses the identifier, and raw sockets see all.
func (p protocol) echo(conn *icmp.PacketConn, to net.Addr, number int, deadline time.Time) (time.Duration, error) {
	mark := make([]byte, 32)
	rand.Read(mark) // never fails
	m := icmp.Message{Type: p.request, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: number, Data: mark}}
	b, err := m.Marshal(nil)
	if err != nil {
		return 0, fmt.Errorf("encode: %w", err)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := conn.WriteTo(b, to); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		got, err := icmp.ParseMessage(p.number, buf[:n])
		if err != nil || got.Type != p.reply {
			continue
		}
		if e, ok := got.Body.(*icmp.Echo); ok && bytes.Equal(e.Data, mark) {
			return time.Since(start), nil
		}
	}
}

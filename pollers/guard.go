package pollers

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// errDenied says that an address may not be polled.
var errDenied = errors.New("address is not polled")

// metadata are where a cloud tells a machine about itself, credentials among it:
// who may register a check must not learn that. They are polled only where a
// network within one of them is allowed by name.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::254/128"),
	netip.MustParsePrefix("100.100.100.200/32"),       // Alibaba's
	netip.MustParsePrefix("192.0.0.192/32"),           // Oracle's
	netip.MustParsePrefix("168.63.129.16/32"),         // Azure's, of its agents
	netip.MustParsePrefix("64:ff9b::169.254.0.0/112"), // the first, by way of NAT64
	netip.MustParsePrefix("2002:a9fe::/32"),           // and of 6to4
	netip.MustParsePrefix("::169.254.0.0/112"),
}

// guard refuses connections to addresses that may not be polled.
type guard struct {
	allow []netip.Prefix // nil: all
	deny  []netip.Prefix // wins
}

// control is for net.Dialer. It sees the resolved address: names, redirects, and
// answers of the name service that change cannot get around it. The error wraps
// errDenied.
func (g guard) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q", errDenied, address)
	}
	return g.check(ap.Addr())
}

// check is for what is not dialled.
func (g guard) check(ip netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	in := func(p netip.Prefix) bool { return p.Contains(ip) }
	switch {
	case slices.ContainsFunc(g.deny, in):
		return fmt.Errorf("%w: %s is denied by --poll-deny", errDenied, ip)
	case g.allow != nil && !slices.ContainsFunc(g.allow, in):
		return fmt.Errorf("%w: %s is not in --poll-allow", errDenied, ip)
	}
	for _, m := range metadata {
		byName := func(p netip.Prefix) bool { return p.Contains(ip) && p.Bits() >= m.Bits() && m.Contains(p.Addr()) }
		if m.Contains(ip) && !slices.ContainsFunc(g.allow, byName) {
			return fmt.Errorf("%w: %s is link-local or of a cloud's metadata", errDenied, ip)
		}
	}
	return nil
}

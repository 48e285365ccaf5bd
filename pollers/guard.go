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

// linkLocal are never polled: who may register a check must not learn what a
// cloud tells a machine about itself, credentials among it.
var linkLocal = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::254/128"),
	netip.MustParsePrefix("64:ff9b::169.254.0.0/112"), // the first, by way of NAT64
}

// guard refuses connections to addresses that may not be polled.
type guard struct {
	allow []netip.Prefix // nil: all
}

// control is for net.Dialer. It sees the resolved address: names, redirects, and
// answers of the name service that change cannot get around it. The error wraps
// errDenied.
func (g guard) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q", errDenied, address)
	}
	ip := ap.Addr().Unmap().WithZone("")
	in := func(p netip.Prefix) bool { return p.Contains(ip) }
	if slices.ContainsFunc(linkLocal, in) || g.allow != nil && !slices.ContainsFunc(g.allow, in) {
		return fmt.Errorf("%w: %s", errDenied, ip)
	}
	return nil
}

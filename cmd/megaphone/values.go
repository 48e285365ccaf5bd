package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
)

// The types of flags that pflag does not have. Each is a pointer to the field
// of Config that it fills, so that flags, environment and file share one parser.

// durationValue reads "60s" or a bare number of seconds.
type durationValue time.Duration

func (v *durationValue) String() string {
	if *v < 0 {
		return "" // not given; the help says what holds then
	}
	return events.Duration(*v).String()
}

func (v *durationValue) Type() string { return "duration" }

func (v *durationValue) Set(s string) error {
	d, err := events.ParseDuration(s)
	if err != nil {
		return err
	}
	*v = durationValue(d)
	return nil
}

// intValue reads a whole number.
type intValue int

func (v *intValue) String() string { return strconv.Itoa(int(*v)) }
func (v *intValue) Type() string   { return "number" }

func (v *intValue) Set(s string) error {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		return fmt.Errorf("%q is no whole number", s)
	}
	*v = intValue(n)
	return nil
}

// sizeValue reads bytes: "2GiB", "512MiB", "1000000".
type sizeValue int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"kB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
}

func (v *sizeValue) String() string {
	for _, u := range []int{3, 2, 1, 0} {
		if unit := sizeUnits[u]; *v != 0 && int64(*v)%unit.bytes == 0 {
			return fmt.Sprintf("%d%s", int64(*v)/unit.bytes, unit.name)
		}
	}
	return strconv.FormatInt(int64(*v), 10)
}

func (v *sizeValue) Type() string { return "size" }

func (v *sizeValue) Set(s string) error {
	text, factor := strings.TrimSpace(s), int64(1)
	for _, u := range sizeUnits {
		if number, ok := strings.CutSuffix(text, u.name); ok {
			text, factor = strings.TrimSpace(number), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/factor {
		return fmt.Errorf("%q is no size; write it as \"2GiB\" or as a number of bytes", s)
	}
	*v = sizeValue(n * factor)
	return nil
}

// prefixesValue reads networks separated by commas; a bare address is the
// network of that address alone.
type prefixesValue []netip.Prefix

func (v *prefixesValue) String() string {
	texts := make([]string, len(*v))
	for i, p := range *v {
		texts[i] = p.String()
	}
	return strings.Join(texts, ",")
}

func (v *prefixesValue) Type() string { return "networks" }

func (v *prefixesValue) Set(s string) error {
	networks := []netip.Prefix{}
	for _, text := range split(s) {
		if addr, err := netip.ParseAddr(text); err == nil {
			networks = append(networks, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("%q is no network; write it as 10.0.0.0/8", text)
		}
		networks = append(networks, unmapped(p.Masked()))
	}
	*v = networks
	return nil
}

// unmapped is a network of IPv4 that is written as one of IPv6, ::ffff:10.0.0.0/104:
// whoever compares has addresses of IPv4, which would be in none of these.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// manyValue is a listValue of which there may be more than one.
type manyValue struct{ *listValue }

func (v manyValue) Set(s string) error {
	*v.listValue = append(*v.listValue, split(s)...)
	return nil
}

// listValue reads words separated by commas.
type listValue []string

func (v *listValue) String() string     { return strings.Join(*v, ",") }
func (v *listValue) Type() string       { return "names" }
func (v *listValue) Set(s string) error { *v = split(s); return nil }

func split(s string) []string {
	var words []string
	for _, w := range strings.Split(s, ",") {
		if w = strings.TrimSpace(w); w != "" {
			words = append(words, w)
		}
	}
	return words
}

// boolValue reads what the original's configuration files hold: True, yes, on, 1 and
// their opposites, in any case.
type boolValue bool

func (v *boolValue) String() string   { return strconv.FormatBool(bool(*v)) }
func (v *boolValue) Type() string     { return "bool" }
func (v *boolValue) IsBoolFlag() bool { return true }

func (v *boolValue) Set(s string) error {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "1", "t", "true", "yes", "on":
		*v = true
	case "0", "f", "false", "no", "off":
		*v = false
	default:
		return fmt.Errorf("%q is neither true nor false", s)
	}
	return nil
}

// labelsValue collects --label k=v, given any number of times.
type labelsValue map[string]string

func (v labelsValue) String() string { return "" }
func (v labelsValue) Type() string   { return "key=value" }

func (v labelsValue) Set(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok || key == "" {
		return fmt.Errorf("%q is no label; write it as key=value", s)
	}
	v[key] = value
	return nil
}

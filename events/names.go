package events

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of names, in bytes.
const (
	MaxHost  = 253
	MaxCheck = 512
)

// GlobalID is the original's id for an override of the whole host. It is no
// check and cannot be registered as one.
const GlobalID = "--global"

// ErrName is wrapped by every error about a host, check or pool name.
var ErrName = errors.New("bad name")

// ParseHost checks a host name and folds it to lower case. The error wraps [ErrName].
func ParseHost(s string) (string, error) {
	switch {
	case s == "":
		return "", fmt.Errorf("%w: a host name must not be empty", ErrName)
	case len(s) > MaxHost:
		return "", fmt.Errorf("%w: a host name has at most %d bytes, this one has %d", ErrName, MaxHost, len(s))
	case strings.HasSuffix(s, "."):
		return "", fmt.Errorf("%w: host %q must not end in a dot", ErrName, s)
	}
	for _, r := range s { // before folding: some letters beyond ASCII fold into it
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-:", r) {
			return "", fmt.Errorf("%w: host %q may hold a-z 0-9 . _ - : only, not %q", ErrName, s, r)
		}
	}
	s = strings.ToLower(s)
	if s == selectToken {
		return "", fmt.Errorf("%w: host %q is reserved", ErrName, s)
	}
	return s, nil
}

// ParseCheck checks the id of a check, which is any text without control
// characters. The error wraps [ErrName].
func ParseCheck(s string) (string, error) {
	switch {
	case s == "":
		return "", fmt.Errorf("%w: the id of a check must not be empty", ErrName)
	case len(s) > MaxCheck:
		return "", fmt.Errorf("%w: the id of a check has at most %d bytes, this one has %d", ErrName, MaxCheck, len(s))
	case !utf8.ValidString(s):
		return "", fmt.Errorf("%w: the id of a check must be UTF-8", ErrName)
	case s == GlobalID:
		return "", fmt.Errorf("%w: %s is the original's override of a whole host, not a check", ErrName, GlobalID)
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return "", fmt.Errorf("%w: the id of a check must not hold control characters, %q does", ErrName, s)
		}
	}
	return s, nil
}

// ParsePool checks the name of a pool: the bytes of a host name, or "@" and a host.
// The error wraps [ErrName].
func ParsePool(s string) (string, error) {
	host, err := ParseHost(strings.TrimPrefix(s, "@"))
	if err != nil {
		return "", fmt.Errorf("pool: %w", err)
	}
	if strings.HasPrefix(s, "@") {
		return "@" + host, nil
	}
	return host, nil
}

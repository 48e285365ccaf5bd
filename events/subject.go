package events

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// Partitions is how many parts hosts (for aggregators) and checks (for workers
// of a pool) are divided into. It is a constant of the format: it is written
// into the streams, and a process that finds another number there does not start.
const Partitions = 64

// ErrSubject is wrapped by every error about a subject that is not Megaphone's.
var ErrSubject = errors.New("bad subject")

const (
	root        = "megaphone."
	selectToken = "_select"
)

// Patterns of the subjects that clients and streams use.
const (
	RegistrationSubjects = root + "registration.>"
	OverrideSubjects     = root + "override.>"
	ResultSubjects       = root + "result.*.*"
	PolledSubjects       = root + "polled.*.*"
	CommitSubjects       = root + "commit.>"
	StatusSubjects       = root + "status.>"
	StatusHostSubjects   = root + "status.host.*"
	StatusCheckSubjects  = root + "status.check.*.*"
	FenceSubjects        = root + "fence.*"
	StateSubjects        = root + "state.>"
	TickSubjects         = root + "tick.*"
	RejectedSubjects     = root + "rejected.>"
	ProcessSubjects      = root + "process.*.*"
)

// Subjects of requests, answered by a NATS micro service.
const (
	RegisterRequest   = root + "api.register"
	DeregisterRequest = root + "api.deregister"
	OverrideRequest   = root + "api.override"
	PollRequest       = root + "api.poll"
	StatusRequest     = root + "api.status"
	PresentRequest    = root + "api.present"
)

// TickAll is the subject of records about an outage of the bus itself.
const TickAll = root + "tick.all"

// Token writes a name as one token of a subject: bytes other than
// A-Z a-z 0-9 _ - become %XX.
func Token(name string) string {
	plain := 0
	for i := range len(name) {
		if !tokenByte(name[i]) {
			plain++
		}
	}
	if plain == 0 {
		return name
	}
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, len(name)+2*plain)
	for i := range len(name) {
		if c := name[i]; tokenByte(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

func tokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// ParseToken reads what [Token] wrote, and nothing else: each name has exactly
// one token. The error wraps [ErrSubject].
func ParseToken(token string) (string, error) {
	if token != "" && Token(token) == token {
		return token, nil
	}
	b := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		c := token[i]
		if c != '%' {
			b = append(b, c)
			continue
		}
		if i+2 >= len(token) {
			return "", fmt.Errorf("%w: token %q ends within a %%XX", ErrSubject, token)
		}
		v, err := strconv.ParseUint(token[i+1:i+3], 16, 8)
		if err != nil {
			return "", fmt.Errorf("%w: token %q has a bad %%XX", ErrSubject, token)
		}
		b = append(b, byte(v))
		i += 2
	}
	name := string(b)
	if token == "" || Token(name) != token {
		return "", fmt.Errorf("%w: %q is not the token of a name (see Token)", ErrSubject, token)
	}
	return name, nil
}

// Partition returns the partition of a host: 32-bit FNV-1a of its token modulo
// [Partitions], as the NATS server's partition() transform computes it.
func Partition(host string) int { return partition(Token(host)) }

// CheckPartition returns the partition, within its pool, of the worker that
// polls a check. It depends on host and check, so that one host with many
// checks still spreads over all workers.
func CheckPartition(host, check string) int { return partition(Token(host) + "." + Token(check)) }

// PoolPartitions is how many leases a pool is divided into: that of a host has
// one worker only.
func PoolPartitions(pool string) int {
	if strings.HasPrefix(pool, "@") {
		return 1
	}
	return Partitions
}

// PoolPartition returns the partition of its pool in which a check is polled.
func PoolPartition(pool, host, check string) int {
	if PoolPartitions(pool) == 1 {
		return 0
	}
	return CheckPartition(host, check)
}

func partition(s string) int {
	h := fnv.New32a()
	h.Write([]byte(s)) // never fails
	return int(h.Sum32() % Partitions)
}

// Subject builders. Names are plain; the subject holds their tokens.

// RegistrationSubject is where a check is registered and deregistered; with an
// empty check, where a host is.
func RegistrationSubject(host, check string) string { return named("registration", host, check) }

// OverrideSubject is where the override of a check, or with an empty check of a
// host, is set and cleared.
func OverrideSubject(host, check string) string { return named("override", host, check) }

// SelectSubject is where an override that selects checks by label is kept.
func SelectSubject(name string) string { return root + "override." + selectToken + "." + Token(name) }

// ResultSubject is where a service publishes its own status.
func ResultSubject(host, check string) string { return named("result", host, check) }

// PolledSubject is where a worker publishes what a poll found.
func PolledSubject(host, check string) string { return named("polled", host, check) }

// CommitSubject is where the aggregator commits a transition; with an empty
// check that of a host.
func CommitSubject(host, check string) string { return sorted("commit", host, check) }

// StatusSubject is where subscribers find a transition; with an empty check
// that of a host.
func StatusSubject(host, check string) string { return sorted("status", host, check) }

// StateSubject is where the state record of a check, or with an empty check of
// a host, is kept.
func StateSubject(host, check string) string {
	p := strconv.Itoa(Partition(host))
	if check == "" {
		return root + "state." + p + ".host." + Token(host)
	}
	return root + "state." + p + ".check." + Token(host) + "." + Token(check)
}

// CheckpointSubject is where the checkpoint of a partition is kept.
func CheckpointSubject(p int) string { return root + "state." + strconv.Itoa(p) + ".ckpt" }

// StateFenceSubject is the fence of a partition in the stream STATE.
func StateFenceSubject(p int) string { return root + "state." + strconv.Itoa(p) + ".fence" }

// StatePartition is the pattern of all records of a partition.
func StatePartition(p int) string { return root + "state." + strconv.Itoa(p) + ".>" }

// FenceSubject is the fence of a partition in the stream CHANGES.
func FenceSubject(p int) string { return root + "fence." + strconv.Itoa(p) }

// TickSubject is where the owner of a partition publishes ticks.
func TickSubject(p int) string { return root + "tick." + strconv.Itoa(p) }

// PartitionResults are the patterns of what an aggregator consumes for one
// partition: single results as stored, reports, its ticks, and records of outages.
func PartitionResults(p int) []string {
	n := strconv.Itoa(p)
	return []string{root + "result." + n + ".>", root + "polled." + n + ".>", PartitionReports(p), TickSubject(p), TickAll}
}

// RejectedSubject is where a refused event is told; of is registration,
// override or result. Names that could not be read are empty and become "_".
func RejectedSubject(of, host, check string) string {
	return root + "rejected." + of + "." + orBlank(host) + "." + orBlank(check)
}

func orBlank(name string) string {
	if name == "" {
		return "_"
	}
	return Token(name)
}

// ProcessSubject is where a process publishes its heartbeat.
func ProcessSubject(role, name string) string {
	return root + "process." + Token(role) + "." + Token(name)
}

// PollSubject is where the worker that holds a partition of a pool is asked to
// poll a check now.
func PollSubject(pool string, partition int) string {
	return root + "poll." + Token(pool) + "." + strconv.Itoa(partition)
}

func named(kind, host, check string) string {
	if check == "" {
		return root + kind + "." + Token(host)
	}
	return root + kind + "." + Token(host) + "." + Token(check)
}

func sorted(kind, host, check string) string {
	if check == "" {
		return root + kind + ".host." + Token(host)
	}
	return root + kind + ".check." + Token(host) + "." + Token(check)
}

// Address is what a subject says: its kind (the word after "megaphone.", such
// as "result"), and the plain names in it. Check is empty where the subject is
// that of a host; Select is the name of an override that selects by label.
type Address struct {
	Kind   string
	Host   string
	Check  string
	Select string
}

// ParseSubject reads a public subject of the kinds registration, override,
// result, polled, status and commit, and the stored form of results, which has
// a partition before the host. The error wraps [ErrSubject] or [ErrName].
func ParseSubject(subject string) (Address, error) {
	var room [8]string // more than any subject of ours has
	t := room[:0]
	for token := range strings.SplitSeq(subject, ".") {
		t = append(t, token)
	}
	if len(t) < 3 || t[0] != "megaphone" {
		return Address{}, fmt.Errorf("%w: %q", ErrSubject, subject)
	}
	a := Address{Kind: t[1]}
	names := t[2:]
	switch a.Kind {
	case "override":
		if len(names) == 2 && names[0] == selectToken {
			name, err := ParseToken(names[1])
			a.Select = name
			return a, err
		}
	case "registration":
	case "result", "polled":
		if len(names) == 3 { // as stored: the partition comes first
			names = names[1:]
		}
		if len(names) != 2 {
			return a, fmt.Errorf("%w: %q must end in <host>.<check>", ErrSubject, subject)
		}
	case "status", "commit":
		if want := map[string]int{"host": 2, "check": 3}[names[0]]; len(names) != want {
			return a, fmt.Errorf("%w: %q", ErrSubject, subject)
		}
		names = names[1:]
	default:
		return a, fmt.Errorf("%w: %q has an unknown kind %q", ErrSubject, subject, a.Kind)
	}
	return parseNames(a, names, subject)
}

func parseNames(a Address, names []string, subject string) (Address, error) {
	if len(names) < 1 || len(names) > 2 {
		return a, fmt.Errorf("%w: %q has %d names, 1 or 2 are wanted", ErrSubject, subject, len(names))
	}
	host, err := ParseToken(names[0])
	if err != nil {
		return a, err
	}
	folded, err := ParseHost(host)
	if err != nil {
		return a, err
	}
	if folded != host {
		return a, fmt.Errorf("%w: %q: hosts are lower case on the bus", ErrSubject, subject)
	}
	a.Host = host
	if len(names) == 1 {
		return a, nil
	}
	check, err := ParseToken(names[1])
	if err != nil {
		return a, err
	}
	a.Check, err = ParseCheck(check)
	return a, err
}

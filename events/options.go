package events

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
)

// Options is what an object url may say beside addr, jsonpath and
// statusoverride. [CheckKind] says which options a kind has; zero means that the
// kind's own default holds.
type Options struct {
	Method       string            `json:"method"`        // of an HTTP request
	Body         string            `json:"body"`          // sent
	Headers      map[string]string `json:"headers"`       // sent
	ExpectCode   Codes             `json:"expect_code"`   // of an answer
	ExpectBody   string            `json:"expect_body"`   // pattern that the answer has to match
	ExpectHeader map[string]string `json:"expect_header"` // pattern per header
	Dialect      string            `json:"dialect"`       // of the status document; empty: recognised
	Credentials  string            `json:"credentials"`   // file in the worker's directory of credentials
	CA           string            `json:"ca"`            // file there: certificates in PEM
	ClientCert   string            `json:"client_cert"`   // file there: certificate and key in PEM
	ServerName   string            `json:"server_name"`   // that the certificate has to bear

	CertWarningDays  *float64 `json:"cert_warning_days"` // Warning when it expires sooner
	CertCriticalDays *float64 `json:"cert_critical_days"`

	Type  string `json:"type"`  // of a DNS question
	Count int    `json:"count"` // of echo requests

	Args []string          `json:"args"` // of a program
	Env  map[string]string `json:"env"`

	Command     string   `json:"command"`   // pattern of a command line
	MinCount    *int     `json:"min_count"` // Critical below
	MaxCount    *int     `json:"max_count"` // Critical above
	MinAge      Duration `json:"min_age"`   // Warning below: it was restarted
	ExpectState string   `json:"expect_state"`

	AgeWarning          Duration `json:"age_warning"`
	AgeCritical         Duration `json:"age_critical"`
	MinSizeBytes        int64    `json:"min_size_bytes"`
	SizeWarningBytes    int64    `json:"size_warning_bytes"`
	SizeCriticalBytes   int64    `json:"size_critical_bytes"`
	MemoryWarningBytes  int64    `json:"memory_warning_bytes"`
	MemoryCriticalBytes int64    `json:"memory_critical_bytes"`
}

// Limits of options.
const (
	MaxPattern  = 512  // bytes
	maxProgram  = 2000 // instructions of a compiled pattern: bounds what a match costs
	maxOptions  = 64   // arguments, headers, variables
	maxEchoes   = 10
	maxCertDays = 3650
)

// ParseOptions reads the options of t. The error wraps [ErrRegistration].
func (t Target) ParseOptions() (Options, error) {
	var o Options
	if t.Options == "" {
		return o, nil
	}
	if err := json.Unmarshal([]byte(t.Options), &o); err != nil {
		return o, fmt.Errorf("%w: url: %w", ErrRegistration, err)
	}
	return o, nil
}

// optionsText keeps of a url what some kind of check has as an option, and is
// empty where that is nothing: the original's clients put there what they liked.
func optionsText(url map[string]json.RawMessage) string {
	kept := map[string]json.RawMessage{}
	for name, v := range url {
		if isOption(name) && string(v) != "null" {
			kept[name] = v
		}
	}
	if len(kept) == 0 {
		return ""
	}
	b, err := json.Marshal(kept)
	if err != nil {
		return "" // it was valid JSON before
	}
	return string(b)
}

func isOption(name string) bool {
	return slices.ContainsFunc(checkKinds, func(k CheckKind) bool { return slices.Contains(k.Options, name) })
}

func (o Options) validate() error {
	for _, check := range []func() error{o.validatePatterns, o.validateFiles, o.validateNumbers, o.validateLists} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) validatePatterns() error {
	for name, p := range map[string]string{"expect_body": o.ExpectBody, "command": o.Command} {
		if _, err := Pattern(p); err != nil {
			return fmt.Errorf("url: %s: %w", name, err)
		}
	}
	for name, p := range o.ExpectHeader {
		if _, err := Pattern(p); err != nil {
			return fmt.Errorf("url: expect_header %s: %w", name, err)
		}
	}
	if o.Dialect != "" && !slices.Contains(Dialects, o.Dialect) {
		return fmt.Errorf("url: dialect %q is none of %s", o.Dialect, strings.Join(Dialects, ", "))
	}
	return nil
}

func (o Options) validateFiles() error {
	for name, file := range map[string]string{"credentials": o.Credentials, "ca": o.CA, "client_cert": o.ClientCert} {
		if file != "" && !FileName(file) {
			return fmt.Errorf("url: %s: %q is not the name of a file in the worker's directory of credentials", name, file)
		}
	}
	return nil
}

func (o Options) validateNumbers() error {
	for name, d := range map[string]*float64{"cert_warning_days": o.CertWarningDays, "cert_critical_days": o.CertCriticalDays} {
		if d != nil && (*d < 0 || *d > maxCertDays) {
			return fmt.Errorf("url: %s is %g, it must be 0 to %d", name, *d, maxCertDays)
		}
	}
	for name, n := range map[string]*int{"min_count": o.MinCount, "max_count": o.MaxCount} {
		if n != nil && *n < 0 {
			return fmt.Errorf("url: %s is %d, it must not be negative", name, *n)
		}
	}
	for name, n := range map[string]int64{
		"min_size_bytes": o.MinSizeBytes, "size_warning_bytes": o.SizeWarningBytes, "size_critical_bytes": o.SizeCriticalBytes,
		"memory_warning_bytes": o.MemoryWarningBytes, "memory_critical_bytes": o.MemoryCriticalBytes,
	} {
		if n < 0 {
			return fmt.Errorf("url: %s is %d, it must not be negative", name, n)
		}
	}
	if o.Count < 0 || o.Count > maxEchoes {
		return fmt.Errorf("url: count is %d, it must be 1 to %d", o.Count, maxEchoes)
	}
	return nil
}

func (o Options) validateLists() error {
	if len(o.Args) > maxOptions || len(o.Env) > maxOptions || len(o.Headers) > maxOptions || len(o.ExpectHeader) > maxOptions {
		return fmt.Errorf("url: more than %d arguments, variables or headers", maxOptions)
	}
	for name, value := range o.Headers {
		if !token(name) || strings.ContainsAny(value, "\r\n\x00") {
			return fmt.Errorf("url: %q is no header", name)
		}
	}
	for name := range o.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Errorf("url: %q is no name of a variable", name)
		}
	}
	if o.Method != "" && !token(o.Method) {
		return fmt.Errorf("url: %q is no method of HTTP", o.Method)
	}
	return nil
}

// token reports whether s is a token of HTTP.
func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// FileName reports whether s names a file of a directory, and nothing outside of it.
func FileName(s string) bool {
	return s != "" && len(s) <= 255 && s[0] != '.' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}

// Pattern compiles a regular expression (RE2: linear in the text) of bounded
// size; nil for the empty one, which matches anything.
func Pattern(s string) (*regexp.Regexp, error) {
	if s == "" {
		return nil, nil
	}
	if len(s) > MaxPattern {
		return nil, fmt.Errorf("%w: a pattern of %d bytes, %d are allowed", ErrRegistration, len(s), MaxPattern)
	}
	tree, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRegistration, err)
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRegistration, err)
	}
	if len(prog.Inst) > maxProgram {
		return nil, fmt.Errorf("%w: the pattern %q repeats too much", ErrRegistration, s)
	}
	return regexp.Compile(s)
}

// Dialects are the forms of a status document that the option dialect names.
// DialectCode is the status by the code of the answer alone.
var Dialects = []string{
	"megaphone", DialectCode, "health+json", "actuator", "microprofile", "aspnet", "health-go", "updown", "sundheit", "goss", DialectStatus,
}

const (
	DialectCode   = "code"
	DialectStatus = "status" // of a file: JSON as over HTTP, or a line that begins with a status
)

// Codes are the codes of HTTP answers that are good: 200, "2xx", "200-299,301"
// or a list of those.
type Codes []CodeRange

// CodeRange is a range of codes, both ends included.
type CodeRange struct{ From, To int }

// Contains reports whether code is among them.
func (c Codes) Contains(code int) bool {
	return slices.ContainsFunc(c, func(r CodeRange) bool { return r.From <= code && code <= r.To })
}

func (c Codes) String() string {
	texts := make([]string, len(c))
	for i, r := range c {
		texts[i] = fmt.Sprintf("%d-%d", r.From, r.To)
		if r.From == r.To {
			texts[i] = strconv.Itoa(r.From)
		}
	}
	return strings.Join(texts, ",")
}

// UnmarshalJSON reads a number, a string, or a list of those.
func (c *Codes) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, v := range list {
		for part := range strings.SplitSeq(fmt.Sprint(v), ",") {
			r, ok := codeRange(strings.TrimSpace(part))
			if !ok {
				return fmt.Errorf("%w: %q is no code of an answer; write 200, \"2xx\" or \"200-299\"", ErrRegistration, part)
			}
			*c = append(*c, r)
		}
	}
	return nil
}

func codeRange(s string) (CodeRange, bool) {
	if len(s) == 3 && strings.EqualFold(s[1:], "xx") && s[0] >= '1' && s[0] <= '5' {
		n := int(s[0]-'0') * 100
		return CodeRange{n, n + 99}, true
	}
	from, to, ranged := strings.Cut(s, "-")
	if !ranged {
		to = from
	}
	a, errA := strconv.Atoi(from)
	b, errB := strconv.Atoi(to)
	return CodeRange{a, b}, errA == nil && errB == nil && a >= 100 && b <= 599 && a <= b
}

// OptionNames returns the names of all options, ordered.
func OptionNames() []string {
	all := map[string]bool{}
	for _, k := range checkKinds {
		for _, name := range k.Options {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

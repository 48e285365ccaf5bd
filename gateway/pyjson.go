package gateway

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// errPyJSON is wrapped by every error about text that Python's json module
// would not read.
var errPyJSON = errors.New("bad JSON")

// maxPyDepth bounds nesting; Python's module stops at about the same depth.
const maxPyDepth = 900

type pyKind uint8

const (
	pyScalar pyKind = iota // number, true, false, null
	pyString
	pyList
	pyObject
)

// pyValue is a JSON value as Python's json module would write it. Scalars and
// strings are kept in their written form, which is unique for each string, so
// that keys can be compared in it.
type pyValue struct {
	kind  pyKind
	text  string // of a scalar or string, as written
	keys  []string
	items []pyValue
}

// parsePy reads a JSON document as Python's json.loads does: of a repeated key
// the first place and the last value count, and NaN, Infinity and -Infinity are
// numbers. The error wraps errPyJSON.
func parsePy(b []byte) (pyValue, error) {
	p := pyParser{b: b}
	v, err := p.value(0)
	if err != nil {
		return v, err
	}
	p.space()
	if p.i < len(p.b) {
		return v, p.fail("more data after the value")
	}
	return v, nil
}

// appendPy appends a JSON document in the form of Python's json.dumps.
func appendPy(dst, doc []byte) ([]byte, error) {
	v, err := parsePy(doc)
	if err != nil {
		return dst, err
	}
	return v.append(dst), nil
}

// append writes v with ", " and ": " as separators.
func (v pyValue) append(dst []byte) []byte {
	switch v.kind {
	case pyList:
		dst = append(dst, '[')
		for i, item := range v.items {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			dst = item.append(dst)
		}
		return append(dst, ']')
	case pyObject:
		dst = append(dst, '{')
		for i, item := range v.items {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			dst = append(dst, v.keys[i]...)
			dst = append(dst, ": "...)
			dst = item.append(dst)
		}
		return append(dst, '}')
	default:
		return append(dst, v.text...)
	}
}

// set replaces the value of a key, or appends the key, as a Python dict does.
func (v *pyValue) set(key string, to pyValue) {
	v.setWritten(string(appendPyString(nil, key)), to)
}

func (v *pyValue) setWritten(key string, to pyValue) {
	if i := slices.Index(v.keys, key); i >= 0 {
		v.items[i] = to
		return
	}
	v.keys, v.items = append(v.keys, key), append(v.items, to)
}

// pyText is a string value.
func pyText(s string) pyValue {
	return pyValue{kind: pyString, text: string(appendPyString(nil, s))}
}

// appendPyString appends s as json.dumps writes it: ASCII only, with surrogate
// pairs; <, > and & as they are.
func appendPyString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	plain := 0            // where the bytes begin that stay as they are
	for i, r := range s { // invalid UTF-8 comes as U+FFFD
		if r >= ' ' && r <= '~' && r != '"' && r != '\\' {
			continue
		}
		dst = append(dst, s[plain:i]...)
		dst = appendPyRune(dst, r)
		_, n := utf8.DecodeRuneInString(s[i:])
		plain = i + n
	}
	dst = append(dst, s[plain:]...)
	return append(dst, '"')
}

const hexDigits = "0123456789abcdef"

func appendPyRune(dst []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(dst, '\\', byte(r))
	case r >= ' ' && r <= '~':
		return append(dst, byte(r))
	case r == '\n':
		return append(dst, '\\', 'n')
	case r == '\r':
		return append(dst, '\\', 'r')
	case r == '\t':
		return append(dst, '\\', 't')
	case r == '\b':
		return append(dst, '\\', 'b')
	case r == '\f':
		return append(dst, '\\', 'f')
	case r > 0xFFFF:
		r -= 0x10000
		return appendPyUnit(appendPyUnit(dst, 0xD800+r>>10), 0xDC00+r&0x3FF)
	}
	return appendPyUnit(dst, r)
}

func appendPyUnit(dst []byte, u rune) []byte {
	return append(dst, '\\', 'u', hexDigits[u>>12&15], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
}

type pyParser struct {
	b []byte
	i int
}

func (p *pyParser) fail(what string) error {
	return fmt.Errorf("%w: %s at byte %d", errPyJSON, what, p.i)
}

func (p *pyParser) space() {
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

// peek skips white space and returns the next byte, 0 at the end.
func (p *pyParser) peek() byte {
	p.space()
	if p.i < len(p.b) {
		return p.b[p.i]
	}
	return 0
}

func (p *pyParser) value(depth int) (pyValue, error) {
	if depth > maxPyDepth {
		return pyValue{}, p.fail("nested too deeply")
	}
	switch c := p.peek(); {
	case c == '{':
		return p.object(depth)
	case c == '[':
		return p.list(depth)
	case c == '"':
		text, err := p.string()
		return pyValue{kind: pyString, text: text}, err
	case c == '-' || c >= '0' && c <= '9':
		if !p.word("-Infinity") {
			return p.number()
		}
		return pyValue{text: "-Infinity"}, nil
	}
	for _, w := range [...]string{"true", "false", "null", "NaN", "Infinity"} {
		if p.word(w) {
			return pyValue{text: w}, nil
		}
	}
	return pyValue{}, p.fail("a value is missing")
}

func (p *pyParser) word(w string) bool {
	if len(p.b)-p.i < len(w) || string(p.b[p.i:p.i+len(w)]) != w {
		return false
	}
	p.i += len(w)
	return true
}

func (p *pyParser) list(depth int) (pyValue, error) {
	v := pyValue{kind: pyList}
	p.i++
	if p.peek() == ']' {
		p.i++
		return v, nil
	}
	for {
		item, err := p.value(depth + 1)
		if err != nil {
			return v, err
		}
		v.items = append(v.items, item)
		switch p.peek() {
		case ',':
			p.i++
		case ']':
			p.i++
			return v, nil
		default:
			return v, p.fail("a , or ] is missing")
		}
	}
}

func (p *pyParser) object(depth int) (pyValue, error) {
	v := pyValue{kind: pyObject}
	place := map[string]int{}
	p.i++
	if p.peek() == '}' {
		p.i++
		return v, nil
	}
	for {
		if p.peek() != '"' {
			return v, p.fail("a key is missing")
		}
		key, err := p.string()
		if err != nil {
			return v, err
		}
		if p.peek() != ':' {
			return v, p.fail("a : is missing")
		}
		p.i++
		item, err := p.value(depth + 1)
		if err != nil {
			return v, err
		}
		if at, twice := place[key]; twice {
			v.items[at] = item
		} else {
			place[key] = len(v.keys)
			v.keys, v.items = append(v.keys, key), append(v.items, item)
		}
		switch p.peek() {
		case ',':
			p.i++
		case '}':
			p.i++
			return v, nil
		default:
			return v, p.fail("a , or } is missing")
		}
	}
}

// string reads a string and returns it in its written form. Escapes of single
// surrogates stay what they are, as in Python.
func (p *pyParser) string() (string, error) {
	p.i++
	out := []byte{'"'}
	for p.i < len(p.b) {
		c := p.b[p.i]
		switch {
		case c == '"':
			p.i++
			return string(append(out, '"')), nil
		case c == '\\':
			var err error
			if out, err = p.escape(out); err != nil {
				return "", err
			}
		case c < ' ':
			return "", p.fail("a control character in a string")
		default:
			r, n := utf8.DecodeRune(p.b[p.i:])
			out = appendPyRune(out, r)
			p.i += n
		}
	}
	return "", p.fail("a string does not end")
}

func (p *pyParser) escape(out []byte) ([]byte, error) {
	if p.i+1 >= len(p.b) {
		return out, p.fail("a string does not end")
	}
	c := p.b[p.i+1]
	p.i += 2
	switch c {
	case '"', '\\', '/':
		return appendPyRune(out, rune(c)), nil
	case 'n':
		return appendPyRune(out, '\n'), nil
	case 'r':
		return appendPyRune(out, '\r'), nil
	case 't':
		return appendPyRune(out, '\t'), nil
	case 'b':
		return appendPyRune(out, '\b'), nil
	case 'f':
		return appendPyRune(out, '\f'), nil
	case 'u':
		if p.i+4 <= len(p.b) {
			if u, err := strconv.ParseUint(string(p.b[p.i:p.i+4]), 16, 16); err == nil {
				p.i += 4
				return appendPyRune(out, rune(u)), nil
			}
		}
	}
	return out, p.fail("a bad escape")
}

// number reads a number: integers of any size are kept exactly, others become
// what Python's repr makes of the float.
func (p *pyParser) number() (pyValue, error) {
	start := p.i
	if p.b[p.i] == '-' {
		p.i++
	}
	whole := p.digits()
	if whole == 0 || whole > 1 && p.b[p.i-whole] == '0' {
		return pyValue{}, p.fail("a bad number")
	}
	float := false
	if p.i < len(p.b) && p.b[p.i] == '.' {
		p.i++
		if float = true; p.digits() == 0 {
			return pyValue{}, p.fail("a bad number")
		}
	}
	if p.i < len(p.b) && (p.b[p.i] == 'e' || p.b[p.i] == 'E') {
		p.i++
		if p.i < len(p.b) && (p.b[p.i] == '+' || p.b[p.i] == '-') {
			p.i++
		}
		if float = true; p.digits() == 0 {
			return pyValue{}, p.fail("a bad number")
		}
	}
	text := string(p.b[start:p.i])
	if !float {
		if text == "-0" {
			text = "0"
		}
		return pyValue{text: text}, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // out of range is infinite, as in Python
		return pyValue{}, p.fail("a bad number")
	}
	return pyValue{text: string(appendPyFloat(nil, f))}, nil
}

func (p *pyParser) digits() int {
	n := 0
	for p.i < len(p.b) && p.b[p.i] >= '0' && p.b[p.i] <= '9' {
		p.i++
		n++
	}
	return n
}

// appendPyFloat appends f as Python's float.__repr__ writes it: the shortest
// digits that read back the same, with an exponent below 1e-4 and from 1e16 on.
func appendPyFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	case math.IsNaN(f):
		return append(dst, "NaN"...)
	case f == 0, math.Abs(f) >= 1e-4 && math.Abs(f) < 1e16:
		start := len(dst)
		dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
		if !slices.Contains(dst[start:], '.') {
			dst = append(dst, ".0"...)
		}
		return dst
	}
	return strconv.AppendFloat(dst, f, 'e', -1, 64)
}

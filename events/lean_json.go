package events

import "encoding/binary"

// maxLeanDepth is how deeply JSON may be nested to be looked at here. Deeper is
// left to the parsers that can say what is wrong with it.
const maxLeanDepth = 64

// members calls f with the name and the value of each member of the JSON object
// that begins at i, and returns where that ends; -1 where it is no valid JSON, a
// name is not plain ASCII, or f is false.
func members(b []byte, i int, f func(name, value []byte) bool) (end int) {
	return object(b, i, func(name []byte, i int) int {
		end := skipValue(b, i, 0)
		if end < 0 || !f(name, b[i:end]) {
			return -1
		}
		return end
	})
}

// object calls f with each member's name and where in b its value begins, which
// f returns the end of, and returns where the object that begins at i ends; -1
// where it is no valid JSON, a name is not plain ASCII, or f returns -1.
func object(b []byte, i int, f func(name []byte, i int) (end int)) (end int) {
	if i >= len(b) || b[i] != '{' {
		return -1
	}
	if i = blank(b, i+1); i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		nameEnd := skipString(b, i)
		if nameEnd < 0 {
			return -1
		}
		name, quoted := plainText(b[i:nameEnd])
		i = blank(b, nameEnd)
		if !quoted || i >= len(b) || b[i] != ':' {
			return -1
		}
		if i = f(name, blank(b, i+1)); i < 0 {
			return -1
		}
		var last bool
		if i, last = next(b, i, '}'); last || i < 0 {
			return i
		}
	}
}

// list is object for a JSON list.
func list(b []byte, i int, f func(i int) (end int)) (end int) {
	if i >= len(b) || b[i] != '[' {
		return -1
	}
	if i = blank(b, i+1); i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		if i = f(i); i < 0 {
			return -1
		}
		var last bool
		if i, last = next(b, i, ']'); last || i < 0 {
			return i
		}
	}
}

// next returns where the next element or member begins, after the one that ends
// at i, or, after the last, where the whole ends; -1 where there is neither.
func next(b []byte, i int, end byte) (_ int, last bool) {
	i = blank(b, i)
	switch {
	case i >= len(b):
		return -1, false
	case b[i] == end:
		return i + 1, true
	case b[i] != ',':
		return -1, false
	}
	return blank(b, i+1), false
}

func blank(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns where the valid JSON value that begins at i ends; -1 where
// there is none, or one that is better left to others.
func skipValue(b []byte, i, depth int) int {
	if i >= len(b) || depth > maxLeanDepth {
		return -1
	}
	switch c := b[i]; {
	case c == '"':
		return skipString(b, i)
	case c == '{' || c == '[':
		return skipNested(b, i, depth+1)
	case c == '-' || c >= '0' && c <= '9':
		return skipNumber(b, i)
	case c == 't':
		return skipWord(b, i, "true")
	case c == 'f':
		return skipWord(b, i, "false")
	case c == 'n':
		return skipWord(b, i, "null")
	}
	return -1
}

func skipWord(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

// skipNested skips an object or a list.
func skipNested(b []byte, i, depth int) int {
	object := b[i] == '{'
	end := byte(']')
	if object {
		end = '}'
	}
	if i = blank(b, i+1); i < len(b) && b[i] == end {
		return i + 1
	}
	for {
		if object {
			if i = skipString(b, i); i < 0 {
				return -1
			}
			if i = blank(b, i); i >= len(b) || b[i] != ':' {
				return -1
			}
			i = blank(b, i+1)
		}
		if i = skipValue(b, i, depth); i < 0 {
			return -1
		}
		if i = blank(b, i); i >= len(b) {
			return -1
		}
		switch b[i] {
		case end:
			return i + 1
		case ',':
			i = blank(b, i+1)
		default:
			return -1
		}
	}
}

// skipString skips a string, whose bytes beyond ASCII are not looked at.
func skipString(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		for i+8 <= len(b) && !special(binary.LittleEndian.Uint64(b[i:])) {
			i += 8
		}
		if i >= len(b) {
			return -1
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			if i = skipEscape(b, i); i < 0 {
				return -1
			}
		}
	}
	return -1
}

// special reports whether one of the eight bytes of w may be a quote, a
// backslash or a control character. It may be wrong only in saying yes.
func special(w uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	zero := func(x uint64) uint64 { return (x - ones) &^ x } // the high bit of a byte that is 0
	return (zero(w^ones*'"')|zero(w^ones*'\\')|((w-ones*' ')&^w))&highs != 0
}

// skipEscape returns the last byte of an escape.
func skipEscape(b []byte, i int) int {
	if i+1 >= len(b) {
		return -1
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if i+5 >= len(b) {
			return -1
		}
		for _, c := range b[i+2 : i+6] {
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return -1
			}
		}
		return i + 5
	}
	return -1
}

// skipNumber leaves numbers that are very long or large to others: the SDK
// refuses what does not fit.
func skipNumber(b []byte, i int) int {
	const longest, exponent = 64, 2 // digits
	start := i
	if b[i] == '-' {
		i++
	}
	first := i
	if i = digits(b, i); i == first || b[first] == '0' && i > first+1 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		first = i + 1
		if i = digits(b, first); i == first {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		first = i
		if i = digits(b, first); i == first || i > first+exponent {
			return -1
		}
	}
	if i > start+longest {
		return -1
	}
	return i
}

func digits(b []byte, i int) int {
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	return i
}

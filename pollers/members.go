package pollers

import (
	"bytes"
	"encoding/json"
	"iter"
)

// members iterates over the keys and values of an object, as [json.Unmarshal]
// into a map reads them, but for a key given twice: that comes twice. The object
// must be valid JSON in valid UTF-8. Maps of whole documents were a third of what
// it cost to judge one.
func members(object json.RawMessage) iter.Seq2[[]byte, json.RawMessage] {
	return func(yield func(key []byte, value json.RawMessage) bool) {
		i := next(object, 1)
		for object[i] != '}' {
			end := valueEnd(object, i)
			key := unquote(object[i:end])
			i = next(object, next(object, end)+1) // beyond the colon
			end = valueEnd(object, i)
			if !yield(key, object[i:end:end]) {
				return
			}
			if i = next(object, end); object[i] == ',' {
				i = next(object, i+1)
			}
		}
	}
}

// member returns the value under a key of an object, the last one of several.
func member(object json.RawMessage, name string) (v json.RawMessage, ok bool) {
	for key, value := range members(object) {
		if string(key) == name {
			v, ok = value, true
		}
	}
	return v, ok
}

// next returns where the first byte from i on is that is not blank.
func next(doc []byte, i int) int {
	for doc[i] == ' ' || doc[i] == '\n' || doc[i] == '\r' || doc[i] == '\t' {
		i++
	}
	return i
}

// valueEnd returns the end of the value that begins at i.
func valueEnd(doc []byte, i int) int {
	for nested := 0; ; i++ {
		switch doc[i] {
		case '{', '[':
			nested++
		case '}', ']':
			nested--
		case '"':
			for i++; doc[i] != '"'; i++ {
				if doc[i] == '\\' {
					i++
				}
			}
		default:
			if nested == 0 { // a number or the like, in an object: something follows
				return i + bytes.IndexAny(doc[i:], ",} \n\r\t")
			}
		}
		if nested == 0 {
			return i + 1
		}
	}
}

// unquote returns what a string says.
func unquote(quoted json.RawMessage) []byte {
	if plain := quoted[1 : len(quoted)-1]; bytes.IndexByte(plain, '\\') < 0 {
		return plain
	}
	var text string
	_ = json.Unmarshal(quoted, &text) // is valid
	return []byte(text)
}

package gateway

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// The right-hand sides were printed by Python 3.11: json.dumps(json.loads(x)).
func TestAppendPy(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":1,"b":[1,2,{}],"c":[]}`:                `{"a": 1, "b": [1, 2, {}], "c": []}`,
		"[ 1 ,\n\t2 ]":                               `[1, 2]`,
		`{"a":1,"b":2,"a":3}`:                        `{"a": 3, "b": 2}`,
		`{"\u0061":1,"a":2}`:                         `{"a": 2}`,
		`"é☃"`:                                       `"\u00e9\u2603"`,
		`"😀 \ud83d\ude00 \uD83D"`:                    `"\ud83d\ude00 \ud83d\ude00 \ud83d"`,
		`"<b> & \/ \" \\ \n\r\t\b\f \u0001 \u007f"`:  `"<b> & / \" \\ \n\r\t\b\f \u0001 \u007f"`,
		`[1.50, 1e5, 1E400, -1e400, 0.1, 1e16, 1.0]`: `[1.5, 100000.0, Infinity, -Infinity, 0.1, 1e+16, 1.0]`,
		`[1e15, 123456789012345678.0, 1e-4, 1e-5]`:   `[1000000000000000.0, 1.2345678901234568e+17, 0.0001, 1e-05]`,
		`[5e-324, 1.7976931348623157e308, 2.5e-7]`:   `[5e-324, 1.7976931348623157e+308, 2.5e-07]`,
		`[-0, -0.0, 0, 0e5, 9999999999999998.0]`:     `[0, -0.0, 0, 0.0, 9999999999999998.0]`,
		`[12345678901234567890123, -7]`:              `[12345678901234567890123, -7]`,
		`[NaN, Infinity, -Infinity]`:                 `[NaN, Infinity, -Infinity]`,
		` [true, false, null] `:                      `[true, false, null]`,
		`""`:                                         `""`,
	} {
		t.Run(in, func(t *testing.T) {
			is := is.New(t)
			got, err := appendPy(nil, []byte(in))
			is.NoErr(err)
			is.Equal(string(got), want)
		})
	}
}

func TestAppendPyRefuses(t *testing.T) {
	deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	for _, in := range []string{
		``, ` `, `{`, `[1`, `[1,]`, `{"a"}`, `{"a":}`, `{a:1}`, `"a`, `"\x"`, `"\u12"`, "\"\n\"", `01`, `1.`, `.5`, `1e`, `-`, `+1`,
		`nul`, `[1] 2`, deep,
	} {
		if _, err := appendPy(nil, []byte(in)); !errors.Is(err, errPyJSON) {
			t.Errorf("%.20q: %v", in, err)
		}
	}
}

func TestPySet(t *testing.T) {
	is := is.New(t)
	v, err := parsePy([]byte(`{"x":1,"status":"Warning","y":2}`))
	is.NoErr(err)
	v.set("status", pyText("OK"))
	v.set("message", pyText("é"))
	is.Equal(string(v.append(nil)), `{"x": 1, "status": "OK", "y": 2, "message": "\u00e9"}`)
}

func TestAppendPyString(t *testing.T) {
	is := is.New(t)
	is.Equal(string(appendPyString(nil, "")), `""`)
	is.Equal(string(appendPyString(nil, "a\"b\\cé\xffd\n😀")), `"a\"b\\c\u00e9\ufffdd\n\ud83d\ude00"`)
}

// What is written reads back as the same document and stays as it is in a
// second round; what encoding/json reads is read here too.
func FuzzPyJSON(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,2.50,"é😀\ud800"],"a":null}`, `[1e400,-0,0.00001,12345678901234567890]`, `"\u2028<&>"`, `NaN`, "\"\xff\"",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		first, err := appendPy(nil, in)
		if err != nil {
			if json.Valid(in) && len(in) < maxPyDepth {
				t.Fatalf("valid JSON is refused: %v", err)
			}
			return
		}
		second, err := appendPy(nil, first)
		if err != nil || string(first) != string(second) {
			t.Fatalf("unstable: %v\n%s\n%s", err, first, second)
		}
		for _, c := range first {
			if c < ' ' || c > '~' {
				t.Fatalf("not printable ASCII: %q", first)
			}
		}
	})
}

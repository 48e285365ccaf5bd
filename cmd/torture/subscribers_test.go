package main

import (
	"strings"
	"testing"

	"github.com/matryer/is"
)

func TestReadStream(t *testing.T) {
	is := is.New(t)
	s := &subscriber{}
	after, alive := "0", 0
	is.NoErr(s.readStream(strings.NewReader("retry: 2000\n\nid: 7\nevent: x\ndata: {}\n\n: still here\n\n"+
		"id: 9\nevent: gap\ndata: {}\n\nid: 12\nevent: x\ndata: {}\n\nevent: closed\ndata: {}\n\nid: 13\nevent: x\nda"), func() { alive++ }, &after))
	is.Equal(s.Got(), subscription{Positions: []uint64{7, 12}, Gaps: 1}) // what was cut off does not count
	is.Equal(after, "12")
	is.Equal(s.Last(), uint64(12))
	is.True(alive > 10)
}

func TestLines(t *testing.T) {
	is := is.New(t)
	var got []string
	l := &lines{take: func(line string) { got = append(got, line) }}
	for _, part := range []string{"one\ntw", "o\n", "\nthree\nfour is cut o"} {
		n, err := l.Write([]byte(part))
		is.NoErr(err)
		is.Equal(n, len(part))
	}
	is.Equal(got, []string{"one", "two", "", "three"})
}

func TestNATSPosition(t *testing.T) {
	for what, tt := range map[string]struct {
		line string
		want uint64
	}{
		"a message":  {"[#7] Received JetStream message: stream: CHANGES seq: 1,764,108,153,123,456 / pending: 12 / subject: s / time: t", 1764108153123456},
		"other news": {"22:00:00 Subscribing to JetStream Stream \"CHANGES\" using existing pull consumer \"torture\"", 0},
		"empty":      {"", 0},
	} {
		t.Run(what, func(t *testing.T) {
			is := is.New(t)
			got, ok, err := natsPosition(tt.line)
			is.NoErr(err)
			is.Equal(ok, tt.want > 0)
			is.Equal(got, tt.want)
		})
	}
}

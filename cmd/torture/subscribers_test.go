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

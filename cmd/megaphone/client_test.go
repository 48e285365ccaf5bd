package main

import (
	"strings"
	"testing"

	"github.com/matryer/is"
)

// A message is anybody's: it neither begins a row of its own nor speaks to the
// terminal.
func TestTable(t *testing.T) {
	is := is.New(t)
	var b strings.Builder
	is.NoErr(table(&b, []string{"HOST", "MESSAGE"}, []string{"web01", "a\tb\nc\r\fweb02\vOK\x1b]0;x\a\u009b1m\x7f é"}))
	is.Equal(b.String(), "HOST   MESSAGE\nweb01  a b; c?web02?OK?]0;x??1m? é\n")
}

package pollers

import "testing"

// However a server's bytes come, they are judged alike, and no more than a line of
// them is kept.
func FuzzNATSBounds(f *testing.F) {
	for _, said := range []string{
		"MSG a 1 2\r\nok\r\nPING\r\n", "HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nok\r\n", "msg\ta\t1\t4611686018427387904\r\nok\r\n",
		"MSG a 9 2\r\nok\nMSG b 9 9\r\nMSG c 1 99999999\r\nok\r\n", "-ERR 'x'\r\n", "MSG a 1\r\r\n", "\n\n\r\n MSG 0\n",
	} {
		f.Add([]byte(said), 3)
	}
	f.Fuzz(func(t *testing.T, said []byte, step int) {
		var whole natsBounds
		want := whole.see(said)
		var b natsBounds
		var got error
		step = max(step%64, 1)
		for rest := said; got == nil && len(rest) > 0; {
			n := min(step, len(rest))
			got = b.see(rest[:n])
			rest = rest[n:]
			if len(b.line) > maxNATSLine {
				t.Fatalf("%d bytes are kept", len(b.line))
			}
		}
		if (got == nil) != (want == nil) || want == nil && (string(b.line) != string(whole.line) || b.skip != whole.skip || b.tail != whole.tail) {
			t.Fatalf("in pieces of %d: %v %+v, at once: %v %+v", step, got, b, want, whole)
		}
	})
}

package pollers

import (
	"testing"

	"pgregory.net/rapid"
)

// Whatever happens, each task knows its place, and comes before those due later.
func TestDueHeap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h dueHeap
		due := rapid.Int64Range(0, 50)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			what := rapid.IntRange(0, 5).Draw(t, "what")
			if len(h) == 0 || what <= 2 {
				h.push(&task{due: due.Draw(t, "due"), index: -1})
				continue
			}
			one := h[rapid.IntRange(0, len(h)-1).Draw(t, "which")].task
			switch what {
			case 3:
				if first := h.pop(); first.index >= 0 || len(h) > 0 && h[0].due < first.due {
					t.Fatalf("%+v before %+v", first, h)
				}
			case 4:
				one.due = due.Draw(t, "due")
				h.fix(one)
			case 5:
				if h.remove(one); one.index >= 0 {
					t.Fatal("it is said to be there")
				}
				for _, d := range h {
					d.due = due.Draw(t, "due")
				}
				h.order()
			}
			for i, d := range h {
				if d.at != d.due || d.index != i || d.due < h[max(i-1, 0)/branches].due {
					t.Fatalf("%d: %+v", i, h)
				}
			}
		}
	})
}

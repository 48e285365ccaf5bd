package pollers

// dueHeap is a heap of tasks, the one due first on top. It keeps their due times
// itself: tasks are all over the memory, and to look at those that are compared
// took longer than all the rest.
type dueHeap []dueTask

type dueTask struct {
	at int64 // due of the task
	*task
}

// branches is how many children a task has in the heap: four of them are in one
// cache line.
const branches = 4

func (h *dueHeap) push(t *task) {
	t.index = len(*h)
	*h = append(*h, dueTask{t.due, t})
	h.up(t.index)
	if t.slot != nil {
		t.slot.due++
	}
}

func (h *dueHeap) pop() *task {
	t := (*h)[0].task
	h.remove(t)
	return t
}

func (h *dueHeap) remove(t *task) {
	last := len(*h) - 1
	moved := (*h)[last]
	(*h)[last] = dueTask{}
	*h = (*h)[:last]
	if t.index < last {
		(*h)[t.index] = moved
		moved.index = t.index
		h.fix(moved.task)
	}
	t.index = -1
	if t.slot != nil {
		t.slot.due--
	}
}

// fix gives a task its place after a change of its due time.
func (h dueHeap) fix(t *task) {
	h[t.index].at = t.due
	h.up(t.index)
	h.down(t.index)
}

// order is fix for all tasks.
func (h dueHeap) order() {
	for i := range h {
		h[i].at = h[i].due
	}
	for i := len(h) / branches; i >= 0 && len(h) > 0; i-- {
		h.down(i)
	}
}

func (h dueHeap) up(i int) {
	moving := h[i]
	for i > 0 {
		parent := (i - 1) / branches
		if h[parent].at <= moving.at {
			break
		}
		h.set(i, h[parent])
		i = parent
	}
	h.set(i, moving)
}

func (h dueHeap) down(i int) {
	moving := h[i]
	for first := branches*i + 1; first < len(h); first = branches*i + 1 {
		least := first
		for c := first + 1; c < min(first+branches, len(h)); c++ {
			if h[c].at < h[least].at {
				least = c
			}
		}
		if moving.at <= h[least].at {
			break
		}
		h.set(i, h[least])
		i = least
	}
	h.set(i, moving)
}

func (h dueHeap) set(i int, t dueTask) {
	h[i] = t
	t.index = i
}

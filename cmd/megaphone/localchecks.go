package main

import (
	"sync"

	"github.com/looprock/megaphone/events"
)

// localChecks are the checks of local kinds that this process's own files hold.
// The worker looks at no others, whatever the bus says: anyone may write there.
// Safe for concurrent use; the zero value holds none.
type localChecks struct {
	mu   sync.Mutex
	have map[checkName]events.Registration
}

// set replaces what is held. What came from a file that is broken now stays.
func (l *localChecks) set(wanted map[checkName]events.Registration, broken map[string]bool) {
	have := map[checkName]events.Registration{}
	for name, r := range wanted {
		if r.Local() {
			have[name] = r
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, r := range l.have {
		if _, ok := wanted[name]; !ok && broken[r.Origin] {
			have[name] = r
		}
	}
	l.have = have
}

// Get returns what the files say of a check.
func (l *localChecks) Get(host, id string) (events.Registration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.have[checkName{host, id}]
	return r, ok
}

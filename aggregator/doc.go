// Package aggregator folds results into one status per check and per host, and
// tells every change as a numbered transition.
//
// [Reduce] and [ReduceHost] are the core: pure functions from a state and an
// input to a state and what is to be done about it. [New] makes the shell, whose
// Run takes a fair share of the 64 partitions of hosts, consumes their results
// and commits their transitions.
//
// The rule that is easiest to get wrong: nothing fires by the process's clock. A
// deadline fires only while a tick is consumed whose time on the bus is at or past
// it, so that everything stored before has been applied. And memory changes only
// after the acknowledgement of the write that tells others; any doubt about a
// write ends in a takeover, which reads everything again behind a fence. See
// DESIGN.md.
//
// Flapping and dependencies between checks are not part of it. This package
// promises no compatibility to other modules.
package aggregator

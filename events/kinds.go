package events

// Types of events. The version comes last; an incompatible change of data is a
// new type.
const (
	TypeRegistered       = "megaphone.check.registered.v1"
	TypeDeregistered     = "megaphone.check.deregistered.v1"
	TypeHostRegistered   = "megaphone.host.registered.v1"
	TypeHostDeregistered = "megaphone.host.deregistered.v1"
	TypeOverrideSet      = "megaphone.override.set.v1"
	TypeOverrideCleared  = "megaphone.override.cleared.v1"
	TypeResult           = "megaphone.check.result.v1"
	TypeReport           = "megaphone.poll.report.v1"
	TypeCheckChanged     = "megaphone.check.status.changed.v1"
	TypeHostChanged      = "megaphone.host.status.changed.v1"
	TypeCheckPresent     = "megaphone.check.status.present.v1"
	TypeHostPresent      = "megaphone.host.status.present.v1"
	TypeRejected         = "megaphone.event.rejected.v1"
	TypeHeartbeat        = "megaphone.process.heartbeat.v1"
	TypeTick             = "megaphone.tick.v1"
)

// Kind is a row of the table of event types.
type Kind struct {
	Type     string   // of the CloudEvent
	Subjects []string // where it is published; <host>, <check> and the like stand for tokens; none: told in answers only
	By       string   // who publishes it
	Stream   string   // what keeps it; empty for none
	Data     any      // a zero value of the Go type of its data
	About    string   // in a sentence
	Internal bool     // not for readers outside Megaphone
}

// Deregistration is the data of [TypeDeregistered], [TypeHostDeregistered] and
// [TypeOverrideCleared]: whom it concerns and why.
type Deregistration struct {
	Host   string `json:"host,omitempty"`
	Check  string `json:"check,omitempty"`
	Name   string `json:"name,omitempty"` // of an override that selects by label
	Reason string `json:"reason,omitempty"`
	By     string `json:"by,omitempty"`
}

// Kinds returns the table of all event types, from which documents, schemas and
// tests are derived. The caller may change what it gets.
func Kinds() []Kind {
	overrides := []string{"megaphone.override.<host>", "megaphone.override.<host>.<check>", "megaphone.override._select.<name>"}
	return []Kind{
		{TypeRegistered, []string{"megaphone.registration.<host>.<check>"}, "gateway, CLI, services, discovery", "REGISTRATIONS", Registration{}, "A check exists, and how to treat it.", false},
		{TypeDeregistered, []string{"megaphone.registration.<host>.<check>"}, "gateway, CLI, services, discovery", "REGISTRATIONS", Deregistration{}, "A check exists no longer.", false},
		{TypeHostRegistered, []string{"megaphone.registration.<host>"}, "gateway, services", "REGISTRATIONS", HostRecord{}, "The address and labels of a host.", false},
		{TypeHostDeregistered, []string{"megaphone.registration.<host>"}, "gateway, services", "REGISTRATIONS", Deregistration{}, "Nothing is registered of a host itself any more.", false},
		{TypeOverrideSet, overrides, "gateway, CLI, services", "REGISTRATIONS", Override{}, "A status is set by hand, for a time.", false},
		{TypeOverrideCleared, overrides, "gateway, CLI, services, aggregator", "REGISTRATIONS", Deregistration{}, "An override ended.", false},
		{TypeResult, []string{"megaphone.result.<host>.<check>", "megaphone.polled.<host>.<check>"}, "services that push (result), workers (polled)", "RESULTS", Result{}, "What one poll or push found.", false},
		{TypeReport, []string{"megaphone.report.<p>.<pool>.<worker>"}, "workers", "RESULTS", Report{}, "What polls found that was no news.", true},
		{TypeCheckChanged, []string{"megaphone.status.check.<host>.<check>"}, "aggregator", "CHANGES", Transition{}, "A check changed its status or phase.", false},
		{TypeHostChanged, []string{"megaphone.status.host.<host>"}, "aggregator", "CHANGES", Transition{}, "A host changed its status or phase.", false},
		{TypeCheckPresent, nil, "gateway, to who asks for the present state", "", Transition{}, "How a check is: no transition, both sides are alike.", false},
		{TypeHostPresent, nil, "gateway, to who asks for the present state", "", Transition{}, "How a host is: no transition, both sides are alike.", false},
		{TypeRejected, []string{"megaphone.rejected.registration.<host>.<check>", "megaphone.rejected.override.<host>.<check>", "megaphone.rejected.result.<host>.<check>"}, "whoever refused it", "REJECTED", Rejection{}, "An event was refused, and why.", false},
		{TypeHeartbeat, []string{"megaphone.process.<role>.<name>"}, "every process", "", Heartbeat{}, "A process is there.", false},
		{TypeTick, []string{"megaphone.tick.<p>", "megaphone.tick.all"}, "aggregator", "RESULTS", Tick{}, "Time has passed, or the bus was away.", true},
	}
}

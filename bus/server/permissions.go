package server

import (
	_ "embed"
	"strings"
	"text/template"
)

// The accounts and users of the bus.
const (
	roleAccount   = "MEGAPHONE"
	publicAccount = "PUBLIC"

	// RoleUser may do everything on the bus; its password is in [CredsFile].
	RoleUser = "megaphone"

	localUser     = "megaphone-local" // the role user of this process, pinned to IN_PROCESS
	anonymousUser = "anonymous"       // whoever connects without credentials
)

// grant is one thing that a client without credentials may do. What is not in
// the table is refused.
type grant struct {
	Subject string // as an anonymous client writes it
	To      string // where it arrives in the role account; empty: the same subject
	Many    bool   // a request has more than one reply
	Why     string
}

// Dest is the subject in the role account.
func (g grant) Dest() string {
	if g.To != "" {
		return g.To
	}
	return g.Subject
}

// subscribable is what an anonymous client may subscribe to, beside _INBOX.>
// for its replies.
var subscribable = []grant{
	{Subject: "megaphone.status.>", Why: "transitions, live"},
	{Subject: "megaphone.process.>", Why: "heartbeats of the processes"},
	{Subject: "megaphone.rejected.>", Why: "what was refused, and why"},
}

// publishable is what an anonymous client may publish or ask for.
//
// Reading CHANGES by consumers needs the JetStream API of that stream, and no
// more of it than this: no create, update, purge or delete of a stream, no
// delete of a message, no pause, reset or unpin of a consumer. Creating a
// consumer goes through the gate, see [Gate]. Readers trust each other: they
// share the consumers of CHANGES, and may delete or acknowledge each other's.
//
// Two things remain possible, because NATS checks no reply subject:
//   - A reply can be sent to a subject of PUBLIC, so a reader can have a stored
//     transition delivered once more, unchanged, to other anonymous subscribers
//     of megaphone.status.>. Its number, and its Nats-Subject and Nats-Sequence
//     where it has them, tell. Roles never see it.
//   - A reply subject that begins with $JS.ACK. crosses accounts as it is. An
//     anonymous client can thus acknowledge for a consumer of any stream. Roles
//     therefore keep their positions themselves and use consumers without
//     acknowledgement.
var publishable = []grant{
	{Subject: "megaphone.registration.>", Why: "register"},
	{Subject: "megaphone.override.>", Why: "override"},
	{Subject: "megaphone.result.>", Why: "push; megaphone.polled.> and megaphone.report.> are for workers alone"},
	{Subject: "megaphone.api.>", Why: "requests that are validated and stored before the answer"},
	{Subject: "$SRV.>", Many: true, Why: "nats micro ls"},

	{Subject: "$JS.API.INFO", Why: "the JetStream clients' first question"},
	{Subject: "$JS.API.STREAM.NAMES", Why: "which streams there are"},
	{Subject: "$JS.API.STREAM.LIST", Why: "nats stream ls"},
	{Subject: "$JS.API.STREAM.INFO.CHANGES", Why: "what CHANGES holds"},
	{Subject: "$JS.API.STREAM.MSG.GET.CHANGES", Why: "one message, by sequence or subject"},
	{Subject: "$JS.API.DIRECT.GET.CHANGES", Many: true, Why: "the same without the stream's leader, and batches"},
	{Subject: "$JS.API.DIRECT.GET.CHANGES.>", Many: true, Why: "the last message of a subject"},
	{Subject: "$JS.API.CONSUMER.CREATE.CHANGES", To: gateSubject + ".ephemeral", Why: "older clients: ephemeral"},
	{Subject: "$JS.API.CONSUMER.CREATE.CHANGES.>", To: gateSubject + ".named.>", Why: "<name> or <name>.<filter>"},
	{Subject: "$JS.API.CONSUMER.DURABLE.CREATE.CHANGES.*", To: gateSubject + ".durable.*", Why: "older clients: durable"},
	{Subject: "$JS.API.CONSUMER.INFO.CHANGES.*", Why: "where a consumer stands"},
	{Subject: "$JS.API.CONSUMER.NAMES.CHANGES", Why: "nats consumer ls"},
	{Subject: "$JS.API.CONSUMER.LIST.CHANGES", Why: "nats consumer report"},
	{Subject: "$JS.API.CONSUMER.DELETE.CHANGES.*", Why: "clients delete their ephemeral consumers"},
	{Subject: "$JS.API.CONSUMER.MSG.NEXT.CHANGES.*", Many: true, Why: "pull"},
	{Subject: "$JS.ACK.CHANGES.>", Why: "acknowledge"},
}

//go:embed permissions.conf.tmpl
var permissionsTemplate string

// Permissions returns the accounts, users and permissions of the bus in the
// form of a nats-server configuration, for an external server. It takes the
// role user's password from the variable MEGAPHONE_PASSWORD: a line
// MEGAPHONE_PASSWORD: "..." above it, or the environment. The embedded server
// is configured with the same text.
//
// On an external server consumers can be created by anonymous clients only
// while some process runs [Gate].
func Permissions() string {
	var b strings.Builder
	t := template.Must(template.New("permissions").Parse(permissionsTemplate))
	err := t.Execute(&b, map[string]any{
		"Role": roleAccount, "Public": publicAccount,
		"RoleUser": RoleUser, "Anonymous": anonymousUser,
		"Subscribable": subscribable, "Publishable": publishable,
	})
	if err != nil {
		panic(err) // the template and its data are constants: a test renders them
	}
	return b.String()
}

package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	ns "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// gateSubject is where requests of anonymous clients to create a consumer on
// CHANGES arrive in the role account.
const gateSubject = "megaphone.gate.consumer"

// gateTimeout bounds one request to the server on behalf of a client.
const gateTimeout = 5 * time.Second

// Gate answers the requests of anonymous clients to create a consumer on
// CHANGES, until the subscription that it returns is ended. nc is a connection
// of the role user. Any number of gates may run on one bus.
//
// It lets pull consumers pass and refuses push consumers: a push consumer names
// the subject to deliver to, which the server checks against nobody's
// permissions. An anonymous client could have stored messages, or heartbeats,
// delivered to megaphone.status.> as if they were new, or into the leases.
func Gate(nc *nats.Conn) (*nats.Subscription, error) {
	sub, err := nc.QueueSubscribe(gateSubject+".>", "gate", func(m *nats.Msg) { passGate(nc, m) })
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", gateSubject, err)
	}
	// Clients may ask as soon as Gate has returned.
	if err := nc.FlushTimeout(gateTimeout); err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", gateSubject, err)
	}
	return sub, nil
}

func passGate(nc *nats.Conn, m *nats.Msg) {
	request, err := gateRequest(m.Subject, m.Data)
	if err != nil {
		_ = m.Respond(gateRefusal(403, err)) // the client that asked may be gone
		return
	}
	if err := gateRoom(nc, request.Subject); err != nil {
		_ = m.Respond(gateRefusal(503, err)) // as above
		return
	}
	answer, err := nc.RequestMsg(request, gateTimeout)
	if err != nil {
		_ = m.Respond(gateRefusal(503, err))
		return
	}
	_ = m.Respond(answer.Data)
}

// maxConsumers is how many consumers CHANGES may have before an anonymous client makes
// another one: each costs the server memory, and a durable one stays. A test has fewer.
var maxConsumers = 10_000

// gateRoom refuses a consumer that would be one too many. One that is there may be asked
// for again: that is how its reader finds it.
func gateRoom(nc *nats.Conn, target string) error {
	m, err := nc.Request("$JS.API.STREAM.INFO.CHANGES", nil, gateTimeout)
	if err != nil {
		return err
	}
	var stream ns.JSApiStreamInfoResponse
	if err := json.Unmarshal(m.Data, &stream); err != nil || stream.StreamInfo == nil || stream.State.Consumers < maxConsumers {
		return err // without a stream the server says so itself
	}
	tokens := strings.Split(target, ".CHANGES.")
	name, _, _ := strings.Cut(tokens[len(tokens)-1], ".")
	m, err = nc.Request("$JS.API.CONSUMER.INFO.CHANGES."+name, nil, gateTimeout)
	var known ns.JSApiConsumerInfoResponse
	if err == nil && len(tokens) > 1 && json.Unmarshal(m.Data, &known) == nil && known.ConsumerInfo != nil {
		return nil
	}
	return fmt.Errorf("CHANGES has %d consumers, more are not made: delete those that nobody reads (nats consumer ls CHANGES)", stream.State.Consumers)
}

// gateRequest returns the request to the JetStream API for one that arrived at
// the gate. The body is read as the server reads it and written anew, so that
// nothing the gate did not see can pass.
func gateRequest(subject string, body []byte) (*nats.Msg, error) {
	var r ns.CreateConsumerRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("consumer request: %w", err)
	}
	if r.Config.DeliverSubject != "" {
		return nil, fmt.Errorf("push consumers need the credentials of %s: use a pull consumer", RoleUser)
	}
	// These two are for the server's own mirrors and sources: such consumers are
	// not listed, and need no place among the stream's consumers.
	r.Config.Direct, r.Config.Sourcing = false, false
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("consumer request: %w", err)
	}
	return &nats.Msg{Subject: gateTarget(subject), Data: data}, nil
}

func gateTarget(subject string) string {
	rest := strings.TrimPrefix(subject, gateSubject)
	if name, ok := strings.CutPrefix(rest, ".named."); ok {
		return "$JS.API.CONSUMER.CREATE.CHANGES." + name
	}
	if name, ok := strings.CutPrefix(rest, ".durable."); ok {
		return "$JS.API.CONSUMER.DURABLE.CREATE.CHANGES." + name
	}
	return "$JS.API.CONSUMER.CREATE.CHANGES"
}

// gateRefusal is an answer in the form of the JetStream API, which every client
// shows to its user.
func gateRefusal(code int, err error) []byte {
	data, _ := json.Marshal(ns.JSApiConsumerCreateResponse{ // holds nothing that cannot be encoded
		ApiResponse: ns.ApiResponse{
			Type: ns.JSApiConsumerCreateResponseType,
			Error: &ns.ApiError{
				Code:        code,
				ErrCode:     uint16(ns.JSConsumerCreateErrF),
				Description: err.Error(),
			},
		},
	})
	return data
}

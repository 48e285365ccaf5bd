package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// A thousand askers at once, half over HTTP and half over NATS without
// credentials, cause one poll of the target.
func TestPollNowForAThousand(t *testing.T) {
	is := is.New(t)
	var polls, asked atomic.Int64
	const askers = 1000
	target := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if polls.Add(1) > 1 {
			eventually(t, 30*time.Second, "all have asked", func() error {
				if n := asked.Load(); n < askers {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
		}
		fmt.Fprintf(w, `{"status":"OK","message":"poll %d"}`, polls.Load())
	}))
	p := serve(t, t.TempDir(), "--timeout", "60s")
	p.must("PUT", "/hosts/web01/checks/db", `{"url":"`+target+`/","interval":"1h"}`, http.StatusCreated)
	eventually(t, 30*time.Second, "the first poll is old enough", func() error {
		if v := p.check("db"); v.AgeSeconds == nil || *v.AgeSeconds < 1.2 {
			return errNotYet
		}
		return nil
	})
	conn, err := bus.Connect(t.Context(), p.Ready.Bus)
	is.NoErr(err)
	defer conn.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	messages := make(chan string, askers)
	var wg sync.WaitGroup
	for range askers / 2 {
		wg.Go(func() { messages <- askHTTP(t, client, p.Ready.HTTP+"/hosts/web01/checks/db?fresh=1s", &asked) })
		wg.Go(func() {
			asked.Add(1)
			a, err := conn.Poll(t.Context(), "web01", "db", 0)
			messages <- fmt.Sprint(a.Check.Message, err)
		})
	}
	wg.Wait()
	close(messages)
	for m := range messages {
		is.True(m == "poll 2" || m == "poll 2<nil>") // everybody has what the one poll found
	}
	is.Equal(polls.Load(), int64(2)) // that of the registration, and theirs
}

// askHTTP returns the message of a check, and counts once it has asked.
func askHTTP(t *testing.T, client *http.Client, url string, asked *atomic.Int64) string {
	once := sync.OnceFunc(func() { asked.Add(1) })
	ctx := httptrace.WithClientTrace(context.WithoutCancel(t.Context()), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { once() }})
	defer once()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err.Error()
	}
	res, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	var v events.CheckView
	if err != nil || json.Unmarshal(b, &v) != nil {
		return fmt.Sprint(string(b), err)
	}
	return v.Message
}

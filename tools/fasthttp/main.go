// Fasthttp serves one answer with fasthttp: the comparison of BenchmarkServed in
// package gateway. It reads headers, an empty line and a body that ends in a zero
// byte, prints the address that it serves on, and ends with its input.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"

	"github.com/valyala/fasthttp"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fasthttp:", err)
		os.Exit(1)
	}
}

func run(stdin io.Reader, stdout io.Writer) error {
	in := bufio.NewReader(stdin)
	header, err := textproto.NewReader(in).ReadMIMEHeader()
	if err != nil {
		return fmt.Errorf("read the headers: %w", err)
	}
	body, err := in.ReadBytes(0)
	if err != nil {
		return fmt.Errorf("read the body: %w", err)
	}
	body = bytes.TrimSuffix(body, []byte{0})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &fasthttp.Server{NoDefaultServerHeader: true, Handler: func(ctx *fasthttp.RequestCtx) {
		for name, values := range header {
			ctx.Response.Header.Set(name, values[0])
		}
		ctx.Response.SetBody(body)
	}}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	fmt.Fprintln(stdout, ln.Addr())
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	if err := ln.Close(); err != nil {
		return err
	}
	return <-served
}

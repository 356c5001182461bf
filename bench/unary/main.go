// A closed-loop client for unary gRPC calls: so many in flight for so many seconds.
//
// Both sides of a comparison are called by this same program, so that neither bears a slower client
// than the other. It knows no service: methods, requests and what an answer must begin with are
// told on standard input, as one JSON object; one JSON object is printed.
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o unary main.go
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Target is one server. Without CA the connection is in the clear; the others are PEM files.
type Target struct {
	Address     string `json:"address"`
	ServerName  string `json:"server_name"`
	CA          string `json:"ca"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// Load is what to do. Caller i calls target i modulo their number, and the bodies in turn.
type Load struct {
	Method      string   `json:"method"`
	Targets     []Target `json:"targets"`
	Bodies      [][]byte `json:"bodies"`
	Expect      []byte   `json:"expect"`
	Flight      int      `json:"flight"`
	Seconds     float64  `json:"seconds"`
	Connections int      `json:"connections"` // to each target
}

// Result: the times are those of the calls that succeeded.
type Result struct {
	Calls        int     `json:"calls"`
	Failures     int64   `json:"failures"`
	FirstFailure string  `json:"first_failure"`
	Seconds      float64 `json:"seconds"`
	P50us        float64 `json:"p50_us"`
	P99us        float64 `json:"p99_us"`
}

// raw hands bytes through: nothing is spent on building messages.
type raw struct{}

func (raw) Marshal(v interface{}) ([]byte, error) { return *(v.(*[]byte)), nil }
func (raw) Unmarshal(data []byte, v interface{}) error {
	*(v.(*[]byte)) = append([]byte(nil), data...)
	return nil
}
func (raw) Name() string { return "proto" }

func secured(target Target) (grpc.DialOption, error) {
	if target.CA == "" {
		return grpc.WithInsecure(), nil
	}
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(target.CA)
	if err != nil {
		return nil, err
	}
	roots.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(target.Certificate, target.Key)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: target.ServerName,
	}
	return grpc.WithTransportCredentials(credentials.NewTLS(config)), nil
}

func dial(load Load) ([][]*grpc.ClientConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	all := make([][]*grpc.ClientConn, len(load.Targets))
	for i, target := range load.Targets {
		option, err := secured(target)
		if err != nil {
			return nil, err
		}
		for c := 0; c < load.Connections; c++ {
			conn, err := grpc.DialContext(ctx, target.Address, option, grpc.WithBlock(),
				grpc.WithDisableServiceConfig(),
				grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", target.Address, err)
			}
			all[i] = append(all[i], conn)
		}
	}
	return all, nil
}

// caller repeats one call until the time is up, and returns how long each took.
type caller struct {
	load     *Load
	conn     *grpc.ClientConn
	counter  *int64
	failures *int64
	first    *sync.Once
	problem  *string
}

func (c caller) once() error {
	body := &c.load.Bodies[atomic.AddInt64(c.counter, 1)%int64(len(c.load.Bodies))]
	var answer []byte
	if err := c.conn.Invoke(context.Background(), c.load.Method, body, &answer); err != nil {
		return err
	}
	if !bytes.HasPrefix(answer, c.load.Expect) {
		return fmt.Errorf("another answer than expected: %x", answer)
	}
	return nil
}

func (c caller) until(stop time.Time) []time.Duration {
	var took []time.Duration
	for {
		before := time.Now()
		if before.After(stop) {
			return took
		}
		if err := c.once(); err != nil {
			atomic.AddInt64(c.failures, 1)
			c.first.Do(func() { *c.problem = err.Error() })
			continue
		}
		took = append(took, time.Since(before))
	}
}

func run(load Load) (Result, error) {
	var result Result
	conns, err := dial(load)
	if err != nil {
		return result, err
	}
	var counter int64
	var first sync.Once
	var group sync.WaitGroup
	took := make([][]time.Duration, load.Flight)
	start := time.Now()
	stop := start.Add(time.Duration(load.Seconds * float64(time.Second)))
	for i := 0; i < load.Flight; i++ {
		target := conns[i%len(conns)]
		one := caller{&load, target[i/len(conns)%len(target)], &counter, &result.Failures, &first,
			&result.FirstFailure}
		group.Add(1)
		go func(i int) {
			defer group.Done()
			took[i] = one.until(stop)
		}(i)
	}
	group.Wait()
	result.Seconds = time.Since(start).Seconds()
	var all []time.Duration
	for _, some := range took {
		all = append(all, some...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	result.Calls = len(all)
	if len(all) > 0 {
		result.P50us = float64(all[len(all)/2].Nanoseconds()) / 1e3
		result.P99us = float64(all[len(all)*99/100].Nanoseconds()) / 1e3
	}
	return result, nil
}

func main() {
	var load Load
	err := json.NewDecoder(os.Stdin).Decode(&load)
	if err == nil && (load.Flight < 1 || load.Connections < 1 || len(load.Targets) == 0 || len(load.Bodies) == 0) {
		err = fmt.Errorf("flight, connections, targets and bodies are all needed")
	}
	var result Result
	if err == nil {
		result, err = run(load)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(result)
}

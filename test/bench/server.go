package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/pxe/seed/boot"
	"slipway.dev/slipway/pxe/tftp"
	"slipway.dev/slipway/pxe/web"
)

// ports are what the step "serve" opened.
type ports struct{ HTTP, TFTP string }

// serveMedium serves as a seed does, until its standard input ends.
func serveMedium(ctx context.Context, name string) error {
	m, err := medium.Open(name)
	if err != nil {
		return err
	}
	defer m.Close()
	man, err := m.Manifest(sampleKey().Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	at := netip.MustParseAddrPort(ln.Addr().String())
	b, err := boot.New(ctx, []boot.Medium{{Medium: m, Manifest: man}}, boot.Options{HTTP: at})
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(ports{at.String(), pc.LocalAddr().String()}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	srv := web.Server(&web.Handler{Files: b.HTTP()}, web.Limits{}, nil)
	g.Go(func() error { return srv.Serve(web.Listen(ln, web.Limits{})) })
	g.Go(func() error { return (&tftp.Server{Files: b.TFTP()}).Serve(ctx, pc) })
	go func() {
		os.Stdin.Read(make([]byte, 1))
		cancel()
		srv.Close()
	}()
	g.Wait()
	return nil
}

// server is a running one, ours or a peer's.
type server struct {
	name       string
	http, tftp string // addresses; empty when it does not speak that
	cmd        *exec.Cmd
	end        func() error
}

// startOurs runs the step "serve".
func (w *work) startOurs(ctx context.Context, name, medium string) (*server, error) {
	argv := append(w.self("serve"), "-medium", medium)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var p ports
	if err := json.NewDecoder(out).Decode(&p); err != nil {
		return nil, fmt.Errorf("serving %s: %w", medium, errors.Join(err, in.Close(), cmd.Wait()))
	}
	return &server{name: name, http: p.HTTP, tftp: p.TFTP, cmd: cmd, end: func() error { return errors.Join(in.Close(), cmd.Wait()) }}, nil
}

// startPeer runs a program that stays in the foreground, and waits until it
// answers.
func (w *work) startPeer(ctx context.Context, s *server, argv []string, ready func() error) (*server, error) {
	log, err := os.Create(w.at(s.name + ".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.end = func() error {
		late := time.AfterFunc(10*time.Second, func() { s.cmd.Process.Kill() })
		defer late.Stop()
		err := s.cmd.Process.Signal(syscall.SIGTERM)
		s.cmd.Wait() // how it takes the signal is its own affair
		return err
	}
	for range 100 {
		if err = ready(); err == nil {
			return s, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	said, _ := os.ReadFile(log.Name())
	return nil, fmt.Errorf("%q: %w\n%s", argv, errors.Join(err, s.end()), said)
}

func (w *work) startNginx(ctx context.Context, root string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	conf := w.at("nginx.conf")
	text := fmt.Sprintf(`daemon off; pid %[1]s/nginx.pid; error_log stderr; user root; worker_processes auto;
events { worker_connections 1024; }
http { access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream; keepalive_requests 1000000;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server { listen %[2]s; root %[3]s; } }
`, w.dir, port, root)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	s := &server{name: "nginx, sendfile", http: port}
	return w.startPeer(ctx, s, []string{"nginx", "-p", w.dir, "-e", "stderr", "-c", conf}, func() error {
		c, err := net.Dial("tcp", port)
		if err == nil {
			c.Close()
		}
		return err
	})
}

func (w *work) startTftpdHPA(ctx context.Context, root string) (*server, error) {
	at, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &server{name: "tftpd-hpa", tftp: at}
	return w.startPeer(ctx, s, []string{"in.tftpd", "-L", "-4", "-a", at, "-u", "root", "-s", root}, answersTFTP(at))
}

// startDnsmasq takes port 69 of a loopback address: it knows no other.
func (w *work) startDnsmasq(ctx context.Context, root string) (*server, error) {
	s := &server{name: "dnsmasq", tftp: "127.6.9.1:69"}
	return w.startPeer(ctx, s, []string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--port=0", "--user=root", "--bind-interfaces",
		"--listen-address=127.6.9.1", "--enable-tftp", "--tftp-root=" + root}, answersTFTP("127.6.9.1:69"))
}

func answersTFTP(at string) func() error {
	return func() error {
		_, err := fetchTFTP(tftpRequest{server: at, name: "none", block: 512, wait: 100 * time.Millisecond, tries: 1})
		if err != nil && strings.Contains(err.Error(), "error 1") { // no such file
			return nil
		}
		return errors.Join(err, errors.New("no answer"))
	}
}

// freePort is a loopback address whose TCP and UDP ports were free a moment ago.
func freePort() (string, error) {
	for range 20 {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		at := ln.Addr().String()
		pc, err := net.ListenPacket("udp4", at)
		ln.Close()
		if err == nil {
			return at, pc.Close()
		}
	}
	return "", errors.New("no port is free for TCP and UDP")
}

// measured adds to what do took the server's processor time and peak memory.
func (s *server) measured(do func() error) (usage, error) {
	c := cost{}
	before, _ := c.look(s.cmd.Process.Pid)
	stop, stopped := make(chan bool), make(chan bool)
	go func() { // tftpd-hpa makes a process per transfer and does not wait for it
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				c.look(s.cmd.Process.Pid)
			}
		}
	}()
	begin := time.Now()
	err := do()
	u := usage{Seconds: time.Since(begin).Seconds()}
	close(stop)
	<-stopped
	if err != nil {
		return usage{}, fmt.Errorf("%s: %w", s.name, err)
	}
	after, peak := c.look(s.cmd.Process.Pid)
	u.CPU, u.Peak = after-before, peak
	return u, nil
}

// cost is what each thread of a server, and of its children, has run for when
// last seen, in nanoseconds: clock ticks miss servers that sleep most of the
// time (Documentation/scheduler/sched-stats.rst).
type cost map[string]int64

// look returns the processor seconds of all threads that were ever seen, and the
// peak of resident memory of the largest process now.
func (c cost) look(pid int) (cpu float64, peak int64) {
	family := []string{strconv.Itoa(pid)}
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) // CONFIG_PROC_CHILDREN
	family = append(family, strings.Fields(string(raw))...)
	for _, p := range family {
		tasks, _ := filepath.Glob("/proc/" + p + "/task/*/schedstat")
		for _, t := range tasks {
			if raw, err := os.ReadFile(t); err == nil {
				first, _, _ := strings.Cut(string(raw), " ")
				c[t], _ = strconv.ParseInt(first, 10, 64)
			}
		}
		peak = max(peak, memory(p, "VmHWM"))
	}
	for _, ns := range c {
		cpu += float64(ns) / 1e9
	}
	return cpu, peak
}

// memory is a line of /proc/PID/status in bytes.
func memory(pid, field string) int64 {
	f, err := os.Open("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), field+":"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

package netnsguests

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kdomanski/iso9660"
	"golang.org/x/crypto/ssh"

	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/provider/hyperv/hvsim/netnsguests/guestinit"
	"l4lab/topology"
)

// guestWord has the test's own program be a machine's first process.
const guestWord = "netnsguests-guest"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == guestWord {
		os.Exit(GuestMain(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == victimWord {
		fmt.Fprintln(os.Stderr, victim(os.Args[2]))
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(agentDir())
	os.Exit(code)
}

// agentDir is where the tests' lbagent is built.
func agentDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("netnsguests-%d", os.Getpid()))
}

// agent builds lbagent, once.
var agent = sync.OnceValues(func() (string, error) {
	path := filepath.Join(agentDir(), "lbagent")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "l4lab/cmd/lbagent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build lbagent: %w\n%s", err, out)
	}
	return path, nil
})

// rig is a simulated host's guests, gone with the test.
type rig struct {
	*Guests
	t    *testing.T
	dir  string
	keys sshKeys
}

func newRig(t *testing.T, name string, faults func(string) Faults) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces and mounts")
	}
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil {
		t.Skip("needs OpenSSH's server: apt-get install openssh-server")
	}
	// Unix sockets and marks have short paths; t.TempDir's are long.
	dir, err := os.MkdirTemp("", "hv-")
	if err != nil {
		t.Fatal(err)
	}
	program, err := agent()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(t.Context(), Options{
		Name: name, Dir: filepath.Join(dir, "g"), Program: program, Self: []string{self, guestWord}, Faults: faults, NeedImages: true,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Guests: g, t: t, dir: dir, keys: newKeys(t)}
	t.Cleanup(func() {
		if t.Failed() {
			r.showConsoles()
		}
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
		r.nothingLeft()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) showConsoles() {
	paths, _ := filepath.Glob(filepath.Join(r.dir, "g/machines/*/console.log"))
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		r.t.Logf("%s:\n%s", path, text)
	}
}

// nothingLeft looks for what Close should have removed.
func (r *rig) nothingLeft() {
	r.t.Helper()
	names, err := fabric.Names(r.prefix())
	if err != nil || len(names) > 0 {
		r.t.Errorf("namespaces are left: %v %v", names, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), r.dir) {
		r.t.Errorf("mounts are left below %s (%v)", r.dir, err)
	}
	if left := r.processes(); len(left) > 0 {
		r.t.Errorf("processes are left: %v", left)
	}
}

// processes are those that bear the instance's mark.
func (r *rig) processes() []string {
	var left []string
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		if strings.Contains(string(text), guestinit.Mark+"="+r.options.Dir) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}

// await waits for a condition, at most half a minute.
func (r *rig) await(what string, met func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !met() {
		if time.Now().After(deadline) {
			r.t.Fatalf("after 30 s: not %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (r *rig) awaitHealthy(id string) {
	r.t.Helper()
	r.await("machine "+id+" healthy", func() bool { return r.State(id).Heartbeat == heartbeatHealthy })
}

// lan makes a switch with the host on it.
func (r *rig) lan() {
	r.t.Helper()
	if _, err := r.EnsureSwitch(r.t.Context(), "lan"); err != nil {
		r.t.Fatal(err)
	}
	err := r.SetHost(r.t.Context(), hvsim.HostNetwork{Switch: "lan", Addresses: []netip.Prefix{netip.MustParsePrefix("20.1.1.100/24")}, MTU: 1500})
	if err != nil {
		r.t.Fatal(err)
	}
}

// machine describes a machine; its id is its name.
func (r *rig) machine(name string, system topology.OS, address string) hvsim.Machine {
	a := netip.MustParseAddr(address).As4()
	return hvsim.Machine{
		ID: name, Name: "lab-" + name, OS: system, Switch: "lan", Dir: filepath.Join(r.dir, "disks", name),
		MAC: net.HardwareAddr{0x00, 0x15, 0x5d, a[1], a[2], a[3]}, Spoofing: true,
	}
}

// start turns machines on and waits until all are healthy.
func (r *rig) start(machines ...hvsim.Machine) {
	r.t.Helper()
	for _, m := range machines {
		if err := r.Start(r.t.Context(), m); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, m := range machines {
		r.awaitHealthy(m.ID)
	}
}

// linux is a Linux machine with a seed.
func (r *rig) linux(name, address string, more string) hvsim.Machine {
	r.t.Helper()
	m := r.machine(name, topology.Linux, address)
	m.Seed = filepath.Join(r.dir, name+".iso")
	r.writeSeed(m, address, "first", more)
	return m
}

func (r *rig) writeSeed(m hvsim.Machine, address, instance, more string) {
	r.t.Helper()
	user := fmt.Sprintf(`#cloud-config
hostname: %s
disable_root: false
ssh_pwauth: false
users:
  - name: root
    lock_passwd: true
    ssh_authorized_keys:
      - %s
ssh_deletekeys: true
ssh_keys:
  ed25519_private: |
%s
  ed25519_public: %s
write_files:
  - path: /etc/ssh/sshd_config.d/10-lab.conf
    content: |
      PermitRootLogin prohibit-password
    permissions: "0644"
%s`, m.ID, r.keys.authorized, indent(r.keys.hostPrivate), r.keys.hostPublic, more)
	network := fmt.Sprintf(`version: 2
ethernets:
  lab:
    match: {macaddress: "%s"}
    dhcp4: false
    mtu: 1500
    addresses: [%s/24]
`, m.MAC, address)
	image, err := iso9660.NewWriter()
	if err != nil {
		r.t.Fatal(err)
	}
	defer image.Cleanup()
	for name, text := range map[string]string{"user-data": user, "network-config": network, "meta-data": "instance-id: " + instance + "\nlocal-hostname: " + m.ID + "\n"} {
		if err := image.AddFile(strings.NewReader(text), name); err != nil {
			r.t.Fatal(err)
		}
	}
	var disc bytes.Buffer
	if err := image.WriteTo(&disc, "cidata"); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(m.Seed, disc.Bytes(), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

// sshKeys are the client's and the servers' keys.
type sshKeys struct {
	signer                              ssh.Signer
	host                                ssh.PublicKey
	authorized, hostPublic, hostPrivate string
}

func newKeys(t *testing.T) sshKeys {
	t.Helper()
	_, client, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, host, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(client)
	if err != nil {
		t.Fatal(err)
	}
	hostSigner, err := ssh.NewSignerFromSigner(host)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(host, "")
	if err != nil {
		t.Fatal(err)
	}
	return sshKeys{
		signer: signer, host: hostSigner.PublicKey(), hostPrivate: string(pem.EncodeToMemory(block)),
		authorized: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))),
		hostPublic: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(hostSigner.PublicKey()))),
	}
}

// dialSSH logs in from the host.
func (r *rig) dialSSH(address string) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	conn, err := r.HostDial(ctx, "tcp", address+":22")
	if err != nil {
		return nil, err
	}
	c, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(r.keys.signer)}, HostKeyCallback: ssh.FixedHostKey(r.keys.host),
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

// sh runs a command line in a Linux machine and returns what it printed.
func (r *rig) sh(address, line string) string {
	r.t.Helper()
	out, err := r.trySh(address, line, nil)
	if err != nil {
		r.t.Fatalf("%s: %s: %v\n%s", address, line, err, out)
	}
	return out
}

func (r *rig) trySh(address, line string, stdin []byte) (string, error) {
	client, err := r.dialSSH(address)
	if err != nil {
		return "", err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return "", err
	}
	defer session.Close()
	session.Stdin = bytes.NewReader(stdin)
	out, err := session.CombinedOutput(line)
	return string(out), err
}

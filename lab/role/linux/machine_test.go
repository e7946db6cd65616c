//go:build linux

package linux

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"l4lab/agent/api"
	"l4lab/lab/guest"
)

// machine stands in for a Linux machine: the verbs' scripts run for real, in a
// folder of the test's, with a systemctl, an ip and an lbagent that keep a small
// model in files.
type machine struct {
	t    *testing.T
	root string

	mu     sync.Mutex
	argvs  [][]string
	pushed []guest.File
	// mute daemons run and do not answer.
	mute map[string]bool
}

// stubs are the programs of the machine. $S is the model: active.UNIT and
// enabled.UNIT exist or not, vips and routes have a line each, decap is the
// answer to `decap status`; fails.UNIT makes a start fail, dies.UNIT makes a
// daemon end at once.
var stubs = map[string]string{
	"systemctl": `echo "systemctl $*" >>$S/log
case $1 in
enable) touch $S/enabled.$2 ;;
disable) rm -f $S/enabled.$2 ;;
stop) rm -f $S/active.$2 ;;
restart)
	if [ -e $S/fails.$2 ]; then echo "Job for $2 failed" >&2; exit 1; fi
	touch $S/active.$2
	case $2 in
	l4lab-vips.*) sed -n 's/^ExecStart=ip address replace \(.*\)\/32 dev lo/\1/p' $U/$2 >>$S/vips; sort -u -o $S/vips $S/vips ;;
	l4lab-routes.*) sed -n 's/^ExecStart=ip route replace \(.*\)\/32 via \(.*\) proto 76 mtu \(.*\)/\1 \2 \3/p' $U/$2 >$S/new
		touch $S/routes; cut -d' ' -f1 $S/new | while read -r d; do sed -i "/^$d /d" $S/routes; done; cat $S/new >>$S/routes ;;
	l4lab-decap.*) echo '{"hook":"tc","attached":true}' >$S/decap ;;
	l4lab-agent.*) touch $S/xdp ;;
	esac ;;
show)
	active=inactive sub=dead enabled= pid=0
	if [ -e $S/active.$3 ]; then active=active sub=running pid=77; fi
	if [ -e $S/dies.$3 ]; then active=activating sub=auto-restart pid=0; fi
	if [ -e $S/enabled.$3 ]; then enabled=enabled; fi
	load=not-found
	if [ -e $U/$3 ]; then load=loaded; fi
	printf "LoadState=$load"'\nActiveState=%s\nSubState=%s\nUnitFileState=%s\nMainPID=%s\n' $active $sub "$enabled" $pid ;;
esac`,
	"journalctl": `echo "bind: address already in use"`,
	"ip": `echo "ip $*" >>$S/log
case "$*" in
"-json address show")
	printf '[{"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1"}'
	while read -r a; do printf ',{"family":"inet","local":"%s"}' $a; done <$S/vips
	printf ']},{"ifname":"%s","addr_info":[{"family":"inet","local":"20.1.1.30"}]' $(cat $S/device)
	if [ -e $S/xdp ]; then printf ',"xdp":{"mode":1}'; fi
	printf '}]\n' ;;
"-json -4 route show proto 76")
	printf '['
	comma=
	while read -r d v m; do printf '%s{"dst":"%s","gateway":"%s","metrics":[{"mtu":%s}]}' "$comma" $d $v $m; comma=,; done <$S/routes
	printf ']\n' ;;
"address delete "*) sed -i "/^${3%/32}\$/d" $S/vips ;;
"route delete "*) sed -i "/^${3%/32} /d" $S/routes ;;
esac`,
	"lbagent": `echo "lbagent $*" >>$S/log
case "$1 $2" in
"decap status") cat $S/decap ;;
"decap detach") echo '{}' >$S/decap ;;
esac`,
}

func newMachine(t *testing.T) (*machine, *System) {
	t.Helper()
	m := &machine{t: t, root: t.TempDir(), mute: map[string]bool{}}
	for name, text := range stubs {
		path := filepath.Join(m.root, "bin", name)
		if name == "lbagent" {
			path = filepath.Join(m.root, Program)
		}
		m.write(path, "#!/bin/sh\nS="+m.root+"/S U="+m.root+unitDir+"\n"+text+"\n")
	}
	for name, text := range map[string]string{"vips": "", "routes": "", "decap": "{}", "device": "enp0s2", "log": ""} {
		m.write(filepath.Join(m.root, "S", name), text)
	}
	s, err := New(Options{Guest: m, Machine: "be3", Address: address, StartLimit: startLimit})
	if err != nil {
		t.Fatal(err)
	}
	return m, s
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o755)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// has says whether the model has a file: "active.l4lab-web.service".
func (m *machine) has(name string) bool {
	_, err := os.Stat(filepath.Join(m.root, "S", name))
	return err == nil
}

func (m *machine) set(name, text string) { m.write(filepath.Join(m.root, "S", name), text) }

func (m *machine) unset(name string) { os.Remove(filepath.Join(m.root, "S", name)) }

func (m *machine) unit(name string) string {
	text, err := os.ReadFile(filepath.Join(m.root, unitPath(name)))
	if err != nil {
		return ""
	}
	return string(text)
}

// changes are what was done to the machine since the last call.
func (m *machine) changes() []string {
	path := filepath.Join(m.root, "S", "log")
	text, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	m.set("log", "")
	var done []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if !strings.Contains(line, " show") && !strings.HasPrefix(line, "lbagent decap status") {
			done = append(done, line)
		}
	}
	return done
}

func (m *machine) Run(ctx context.Context, c guest.Command) error {
	m.mu.Lock()
	m.argvs = append(m.argvs, c.Argv)
	m.mu.Unlock()
	argv := make([]string, len(c.Argv))
	for i, arg := range c.Argv {
		for _, own := range []string{unitDir, Folder, Program, Pins} {
			if strings.HasPrefix(arg, own) {
				arg = m.root + arg
				break
			}
		}
		argv[i] = arg
	}
	if stub := filepath.Join(m.root, "bin", argv[0]); !strings.Contains(argv[0], "/") {
		if _, err := os.Stat(stub); err == nil {
			argv[0] = stub
		}
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + filepath.Join(m.root, "bin") + ":/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdin, cmd.Stdout = c.Stdin, c.Stdout
	var stderr strings.Builder
	cmd.Stderr = &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return &guest.ExitError{Argv: c.Argv, Code: exit.ExitCode(), Stderr: stderr.String()}
	} else if err != nil {
		return err
	}
	return nil
}

func (m *machine) Push(_ context.Context, f guest.File) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pushed = append(m.pushed, f)
	return nil
}

func (m *machine) Pull(context.Context, string) (io.ReadCloser, error) {
	return nil, errors.New("nothing is pulled here")
}

// Dial reaches the daemons that are active.
func (m *machine) Dial(_ context.Context, network, _, to string) (net.Conn, error) {
	unit := webUnit
	if network == "unix" {
		unit = agentUnit
	}
	if !m.has("active."+unit) || m.has("dies."+unit) || m.mute[unit] {
		return nil, syscall.ECONNREFUSED
	}
	ours, theirs := net.Pipe()
	if network == "udp" {
		go func() {
			buffer := make([]byte, 100)
			n, _ := theirs.Read(buffer)
			theirs.Write(buffer[:n])
		}()
		return ours, nil
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/whoami":
			w.Header().Set("X-Backend", "be3")
		case "/v1/status":
			json.NewEncoder(w).Encode(api.Status{PID: 77})
		}
	})}
	go server.Serve(&oneConnection{conn: theirs})
	return ours, nil
}

type oneConnection struct {
	conn net.Conn
	once sync.Once
}

func (l *oneConnection) Accept() (conn net.Conn, err error) {
	err = net.ErrClosed
	l.once.Do(func() { conn, err = l.conn, nil })
	return conn, err
}
func (l *oneConnection) Close() error   { return nil }
func (l *oneConnection) Addr() net.Addr { return l.conn.LocalAddr() }

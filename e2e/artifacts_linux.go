package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/onsi/ginkgo/v2/types"

	. "github.com/onsi/ginkgo/v2"

	"l4lab/agent/api"
	"l4lab/lab"
	"l4lab/lab/capture"
	"l4lab/lab/capture/pcapng"
	"l4lab/topology"
)

// What is known of a failed spec goes to a folder of its own:
//
//	spec.json, output.txt   its name, labels, failure and seed; all commands with their output
//	LAB/                    for each lab that is up:
//	  topology.yaml, state.json, events.jsonl, status.txt, connections.txt
//	  logs/NODE.txt         what the agent, the web servers and the relays wrote
//	  agent/*.json          services, counters, neighbours, health, as the agent's API has them
//	  traces.json           what the data path would do with packets of the flows concerned
//	  maps/*.json           the pinned maps, where they are this machine's
//	  network/NODE.txt      links, addresses, routes and neighbours of Linux nodes
//	  probe.pcapng, probe.txt  all places while the client asks each service right after the failure
//
// A capture of all places during every spec would cost more than the specs do;
// what the flows did shows in the probe, too, unless the fault has gone by then.

// evidenceLimit bounds the gathering, so that a lab that hangs holds nothing up.
const evidenceLimit = 40 * time.Second

// suspect notes a flow that a failure would be about: its trace is kept.
func (s *suite) suspect(from, to netip.AddrPort) {
	s.suspects = append(s.suspects, [2]netip.AddrPort{from, to})
}

// keepEvidence fills the folder of a spec that failed.
func (s *suite) keepEvidence(ctx context.Context) {
	defer func() { s.suspects = nil }()
	spec := CurrentSpecReport()
	if !spec.Failed() || s.config.Artifacts == "" || s.isInterrupted() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, evidenceLimit)
	defer cancel()
	dir := keepsake(filepath.Join(s.config.Artifacts, folderOf(spec)))
	dir.json("spec.json", specOf(spec), nil)
	dir.text("output.txt", spec.CombinedOutput()+"\n"+spec.FailureMessage()+"\n")
	dir.text("run.txt", fmt.Sprintf("provider %s, seed %d\n", s.config.Provider, GinkgoRandomSeed()))
	for _, name := range s.labs() {
		s.keepLab(ctx, keepsake(filepath.Join(string(dir), name)), name)
	}
	AddReportEntry("artifacts", string(dir))
}

// keepLab keeps what is known of one lab: first what cannot change it.
func (s *suite) keepLab(ctx context.Context, dir keepsake, name string) {
	for command, file := range map[string]string{"status": "status.txt", "connections": "connections.txt"} {
		dir.text(file, s.quietly(ctx, command, "--name", name))
	}
	dir.copy("state.json", filepath.Join(s.state, name, "state.json"))
	dir.copy("events.jsonl", s.eventsOf(name))
	l := s.open(name)
	t, err := l.Topology()
	if err != nil {
		dir.text("topology.yaml", "# "+err.Error())
		return
	}
	data, err := topology.Marshal(t)
	dir.text("topology.yaml", string(data)+errorText(err))
	for _, machine := range t.MachineNames() {
		dir.text(filepath.Join("logs", machine+".txt"), s.quietly(ctx, "logs", "--name", name, machine))
		if machine == t.Client.Name || t.Nodes[machine].OS == topology.Linux || s.driver().Name == netnsName {
			dir.text(filepath.Join("network", machine+".txt"), s.quietly(ctx, "exec", "--name", name, machine, "--", "sh", "-c",
				"for what in link addr route neigh; do echo; echo ip $what; ip -s $what; done; ip route show cache"))
		}
	}
	s.keepMaps(dir, filepath.Join(s.state, name, "bpf"))
	s.keepAgent(ctx, dir, l)
	s.keepProbe(ctx, dir, l, t)
	s.keepTraces(ctx, dir, l)
}

// quietly runs a command and returns all that it said.
func (s *suite) quietly(ctx context.Context, args ...string) string {
	out, err := s.command(ctx, args...).CombinedOutput()
	return string(out) + errorText(err)
}

// keepAgent asks the agent.
func (s *suite) keepAgent(ctx context.Context, dir keepsake, l *lab.Lab) {
	agent, err := l.Agent()
	if err != nil {
		dir.text("agent/error.txt", err.Error())
		return
	}
	status, err := agent.Status(ctx)
	dir.json("agent/status.json", status, err)
	services, err := agent.Services(ctx)
	dir.json("agent/services.json", services, err)
	counters, err := agent.Counters(ctx)
	dir.json("agent/counters.json", counters, err)
	neighbours, err := agent.Neighbours(ctx)
	dir.json("agent/neighbours.json", neighbours, err)
	health, err := agent.Health(ctx)
	dir.json("agent/health.json", health, err)
}

// tracesKept is how many of the known flows are traced beside the suspects.
const tracesKept = 20

// keepTraces asks what the data path would do with packets of the suspects, and of
// flows that it knows: the probe's, where there are no others.
func (s *suite) keepTraces(ctx context.Context, dir keepsake, l *lab.Lab) {
	agent, err := l.Agent()
	if err != nil {
		return // keepAgent has said so
	}
	connections, err := agent.Connections(ctx, 0)
	dir.json("agent/connections.json", connections, err)
	var packets []api.TracePacket
	for _, flow := range s.suspects {
		packets = append(packets, api.TracePacket{Protocol: "tcp", From: flow[0], To: flow[1]})
	}
	for _, c := range connections[:min(tracesKept, len(connections))] {
		packets = append(packets, api.TracePacket{Protocol: c.Protocol, From: c.Source, To: c.Dest})
	}
	traces := make([]any, 0, len(packets))
	for _, p := range packets {
		trace, err := agent.Trace(ctx, p)
		if err != nil {
			traces = append(traces, map[string]any{"packet": p, "error": err.Error()})
			continue
		}
		traces = append(traces, trace)
	}
	dir.json("traces.json", traces, nil)
}

// probes is how many connections to each service the probe opens.
const probes = 8

// keepProbe captures all places while the client asks each service.
func (s *suite) keepProbe(ctx context.Context, dir keepsake, l *lab.Lab, t topology.Topology) {
	var said strings.Builder
	sessions := map[capture.Place]*capture.Session{}
	for _, machine := range t.MachineNames() {
		places := []capture.Place{{Machine: machine}}
		if machine == t.LoadBalancer() {
			places = append(places, capture.Place{Machine: machine, Port: true})
		}
		for _, place := range places {
			session, err := l.Capture(ctx, place)
			if err != nil {
				fmt.Fprintf(&said, "capture at %s: %v\n", place, err)
				continue
			}
			sessions[place] = session
		}
	}
	for _, service := range t.Services {
		if service.Protocol != topology.UDP {
			said.WriteString(askAll(ctx, l, t.Client.Name, service.Frontend()))
		}
	}
	var recordings []capture.Recording
	for place, session := range sessions {
		result, err := session.Stop()
		if err != nil {
			fmt.Fprintf(&said, "capture at %s: %v\n", place, err)
		}
		recordings = append(recordings, capture.Recording{Place: place, Frames: session.Frames(), Dropped: result.Dropped})
	}
	dir.text("probe.txt", said.String())
	dir.write("probe.pcapng", func(w io.Writer) error { return pcapng.Write(w, recordings) })
}

// askAll asks a frontend several times side by side and says what came of it.
func askAll(ctx context.Context, l *lab.Lab, client string, frontend netip.AddrPort) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var wait sync.WaitGroup
	said := make([]string, probes)
	for i := range said {
		wait.Go(func() {
			from, err := askOnce(ctx, l, client, frontend)
			said[i] = fmt.Sprintf("%s -> %s: %s\n", client, frontend, from+errorText(err))
		})
	}
	wait.Wait()
	return strings.Join(said, "")
}

func askOnce(ctx context.Context, l *lab.Lab, client string, frontend netip.AddrPort) (string, error) {
	m, err := l.Machine(client)
	if err != nil {
		return "", err
	}
	conn, err := m.Guest.Dial(ctx, "tcp", "", frontend.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+frontend.String()+"/whoami", nil)
	if err != nil {
		return "", err
	}
	request.Close = true
	if err := request.Write(conn); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 4<<10))
	if lines := strings.Split(strings.TrimSpace(string(answer)), "\n"); len(lines) > 0 {
		return conn.LocalAddr().String() + " got " + lines[len(lines)-1], err
	}
	return "nothing", err
}

// mapEntriesKept bounds what is kept of one map.
const mapEntriesKept = 2000

// keepMaps writes the maps that are pinned below a folder.
func (s *suite) keepMaps(dir keepsake, pins string) {
	_ = filepath.WalkDir(pins, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // what cannot be looked at is not kept
		}
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil // a program or a link
		}
		defer m.Close()
		name, _ := filepath.Rel(pins, path)
		content, err := dump(m)
		dir.json(filepath.Join("maps", strings.ReplaceAll(name, "/", "_")+".json"), content, err)
		return nil
	})
}

// mapDump is a map's content, keys and values as hexadecimal bytes. Entries of
// zeros alone are left out: arrays are full of them.
type mapDump struct {
	Type                           string
	KeySize, ValueSize, MaxEntries uint32
	Truncated                      bool `json:",omitempty"`
	Entries                        [][]string
}

func dump(m *ebpf.Map) (mapDump, error) {
	d := mapDump{Type: m.Type().String(), KeySize: m.KeySize(), ValueSize: m.ValueSize(), MaxEntries: m.MaxEntries()}
	var key []byte
	var value any = new([]byte)
	if perCPU := strings.Contains(strings.ToLower(d.Type), "percpu"); perCPU {
		value = new([][]byte)
	}
	entries := m.Iterate()
	for entries.Next(&key, value) {
		var values [][]byte
		switch v := value.(type) {
		case *[]byte:
			values = [][]byte{*v}
		case *[][]byte:
			values = *v
		}
		entry, zero := []string{hex.EncodeToString(key)}, true
		for _, v := range values {
			zero = zero && len(strings.Trim(string(v), "\x00")) == 0
			entry = append(entry, hex.EncodeToString(v))
		}
		if zero {
			continue
		}
		if d.Truncated = len(d.Entries) == mapEntriesKept; d.Truncated {
			break
		}
		d.Entries = append(d.Entries, entry)
	}
	return d, entries.Err()
}

// keepsake is a folder that is made when something is put into it. What cannot be
// kept is noted in its place: gathering goes on.
type keepsake string

func (e keepsake) write(name string, content func(io.Writer) error) {
	path := filepath.Join(string(e), name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	var f *os.File
	if err == nil {
		f, err = os.Create(path)
	}
	if err == nil {
		if err = content(f); err != nil {
			fmt.Fprintln(f, err)
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		fmt.Fprintf(GinkgoWriter, "keep %s: %v\n", path, err)
	}
}

func (e keepsake) text(name, text string) {
	e.write(name, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// json keeps a value, or why there is none.
func (e keepsake) json(name string, value any, err error) {
	if err != nil {
		value = map[string]any{"error": err.Error(), "value": value}
	}
	e.write(name, func(w io.Writer) error {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	})
}

func (e keepsake) copy(name, path string) {
	data, err := os.ReadFile(path)
	e.text(name, string(data)+errorText(err))
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return "\n" + err.Error() + "\n"
}

// folderOf names the folder of a spec: its words, as far as a file name has room.
func folderOf(spec types.SpecReport) string {
	word := func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return ' '
	}
	name := strings.Join(strings.Fields(strings.Map(word, strings.TrimPrefix(spec.FullText(), "labctl "))), "-")
	return strings.TrimRight(name[:min(len(name), 120)], "-")
}

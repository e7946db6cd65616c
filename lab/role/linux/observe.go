package linux

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"l4lab/agent/api"
	"l4lab/lab/role"
)

// observeScript prints all that Observe needs of a machine, in one go, each part
// after a line "== l4lab PART". $1 is the folder of units, $2 the program, $3
// the pins of the decapsulation program.
const observeScript = `part() { printf '\n== l4lab %s\n' "$1"; }
part kernel
uname -r
part links
ip -json address show || exit 1
part routes
ip -json -4 route show proto ` + routeProtocol + ` || exit 1
for unit in ` + agentUnit + ` ` + decapUnit + ` ` + webUnit + `; do
	if [ -f "$1/$unit" ]; then
		part "file $unit"
		cat "$1/$unit"
		part "state $unit"
		systemctl show ` + showProperties + ` "$unit"
	fi
done
if [ -f "$1/` + decapUnit + `" ]; then
	part decap
	"$2" decap status --pin-dir "$3" -o json 2>&1
fi
exit 0`

// parts are the script's answers by name.
func parts(out string) map[string]string {
	p := map[string]string{}
	for piece := range strings.SplitSeq("\n"+out, "\n== l4lab ") {
		if name, text, ok := strings.Cut(piece, "\n"); ok {
			p[name] = strings.TrimSuffix(text, "\n")
		}
	}
	return p
}

// Observe implements role.System.
func (s *System) Observe(ctx context.Context) (role.Facts, error) {
	out, err := s.run(ctx, nil, "sh", "-c", observeScript, "sh", unitDir, Program, decapPins)
	if err != nil {
		return role.Facts{}, s.errorf("look at the machine: %w", err)
	}
	p := parts(out)
	have, err := parseLinks(s, p["links"])
	if err != nil {
		return role.Facts{}, err
	}
	f := role.Facts{VIPs: have.vips(), Kernel: strings.TrimSpace(p["kernel"])}
	if f.Routes, err = parseRoutes(s, p["routes"]); err != nil {
		return role.Facts{}, err
	}
	f.Agent, f.Page = s.observeDaemon(ctx, p, agentUnit), s.observeDaemon(ctx, p, webUnit)
	f.Decap = observeDecap(p)
	own, ok := have.withAddress(s.Address)
	for unit, present := range map[string]*role.Present{agentUnit: &f.Agent, decapUnit: &f.Decap} {
		device := parseRecord(p["file "+unit]).Device
		if present.Spec == "" || present.Fault != "" {
			continue
		}
		if !ok || own.Name != device {
			present.Fault = fmt.Sprintf("it works on %s, where the node's address is not", device)
		}
	}
	if f.Agent.Spec != "" && f.Agent.Fault == "" && own.XDP == nil {
		f.Agent.Fault = "its program is detached"
	}
	return f, ctx.Err()
}

func (s *System) observeDaemon(ctx context.Context, p map[string]string, name string) role.Present {
	text, ok := p["file "+name]
	if !ok {
		return role.Present{}
	}
	r, state := parseRecord(text), parseShow(p["state "+name])
	switch {
	case r.Spec == "":
		return role.Present{Fault: "its unit does not say what it was made from"}
	case state.ended():
		return role.Present{PID: state.pid, Fault: "exited"}
	case s.answers(ctx, r.At) != nil:
		return role.Present{Spec: r.Spec, PID: state.pid, Fault: "does not answer"}
	case state.enabled != "enabled":
		return role.Present{Spec: r.Spec, PID: state.pid, Fault: "is not started at boot"}
	}
	return role.Present{Spec: r.Spec, PID: state.pid}
}

// observeDecap trusts the unit only as far as the kernel bears it out.
func observeDecap(p map[string]string) role.Present {
	text, ok := p["file "+decapUnit]
	if !ok {
		return role.Present{}
	}
	var status api.DecapStatus
	if err := json.Unmarshal([]byte(p["decap"]), &status); err != nil {
		return role.Present{Fault: "its program does not answer: " + strings.TrimSpace(p["decap"])}
	}
	switch r := parseRecord(text); {
	case status.Hook == "":
		return role.Present{Fault: "its pins are gone"}
	case !status.Attached:
		return role.Present{Fault: "detached"}
	case parseShow(p["state "+decapUnit]).enabled != "enabled":
		return role.Present{Spec: r.Spec, Fault: "is not started at boot"}
	case status.Clsact:
		return role.Present{Spec: r.Spec, Note: "by a clsact filter, since its kernel has no TCX"}
	default:
		return role.Present{Spec: r.Spec}
	}
}

// EphemeralPorts implements role.System.
func (s *System) EphemeralPorts(ctx context.Context) (low, high uint16, err error) {
	low, high, err = role.LinuxEphemeralPorts(ctx, s.Guest)
	if err != nil {
		err = s.errorf("%w", err)
	}
	return low, high, err
}

package hvsim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"l4lab/lab/provider/hyperv/hvsim/wsman"
)

// Fault is one thing that goes wrong. Those of the wire befall requests, those
// of machines befall every machine of the name, those of the host the host.
type Fault struct {
	Kind FaultKind
	// Request is the number of the first request that a fault of the wire
	// befalls, counted from 1 as WinRM gets them; Times is how many in a row, 0
	// and 1 for one.
	Request, Times int
	// Delay is how long a slow answer takes.
	Delay time.Duration
	// Machine is the name of a virtual machine, or of its node in the lab; "": all.
	Machine string
	// MB is what the host has left.
	MB int64
}

// FaultKind is the word that a fault's text begins with.
type FaultKind string

// The kinds of faults.
const (
	// FaultReset cuts the connection before anything is done, FaultResetAfter
	// between the deed and the answer.
	FaultReset      FaultKind = "reset"
	FaultResetAfter FaultKind = "reset-after"
	// FaultServerError answers 500, FaultSlow late, FaultTruncated half.
	FaultServerError FaultKind = "500"
	FaultSlow        FaultKind = "slow"
	FaultTruncated   FaultKind = "truncate"
	// FaultAuthLost refuses the credentials of a connection that was logged on.
	FaultAuthLost FaultKind = "auth-lost"
	// FaultQuota says that a quota is used up, FaultShellLost forgets the shells.
	FaultQuota     FaultKind = "quota"
	FaultShellLost FaultKind = "shell-lost"
	// FaultNeverBoots: a machine is on, and nothing is ever heard of it.
	FaultNeverBoots FaultKind = "never-boots"
	// FaultRebootHangs: a machine does not come back from a restart of its own;
	// turning it off and on helps.
	FaultRebootHangs FaultKind = "reboot-hangs"
	// FaultDiskFull and FaultMemoryShort leave the host MB of it.
	FaultDiskFull    FaultKind = "disk-full"
	FaultMemoryShort FaultKind = "memory-short"
)

// wireFaults says what each fault of the wire is to the server.
func wireFaults() map[FaultKind]wsman.FaultKind {
	return map[FaultKind]wsman.FaultKind{
		FaultReset: wsman.Reset, FaultResetAfter: wsman.ResetAfter, FaultServerError: wsman.ServerError, FaultSlow: wsman.Slow,
		FaultTruncated: wsman.Truncated, FaultAuthLost: wsman.AuthLost, FaultQuota: wsman.Quota, FaultShellLost: wsman.ShellLost,
	}
}

// FaultsHelp says how faults are written, a line each.
const FaultsHelp = `  reset@N, reset-after@N   cut the connection of request N, before or after it was done
  500@N                    answer request N with an internal error
  slow@N=DURATION          answer request N that much later
  truncate@N               answer request N half
  auth-lost@N              refuse the credentials at request N
  quota@N, shell-lost@N    a quota is used up, or the shells are gone, at request N
  never-boots[=MACHINE]    a machine that is turned on and never heard of
  reboot-hangs[=MACHINE]   a machine that does not come back from its own restart
  disk-full=MB             the host's disk has that much left
  memory-short=MB          the host's memory has that much left
N counts the requests that WinRM gets, from 1; NxTIMES lasts for several in a row.
MACHINE is a virtual machine's name or its node's; without one, all are meant.`

// ParseFault reads a fault as FaultsHelp describes it.
func ParseFault(text string) (Fault, error) {
	head, value, hasValue := strings.Cut(text, "=")
	word, at, hasAt := strings.Cut(head, "@")
	f := Fault{Kind: FaultKind(word)}
	_, ofWire := wireFaults()[f.Kind]
	wrong := func(want string) (Fault, error) {
		return Fault{}, fmt.Errorf("fault %q: expected %s", text, want)
	}
	switch {
	case ofWire && (!hasAt || !f.parseRequest(at)):
		return wrong(word + "@N, N being a request's number from 1 on")
	case !ofWire && hasAt:
		return wrong("no request's number")
	case f.Kind == FaultSlow:
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return wrong("slow@N=DURATION, such as slow@7=2s")
		}
		f.Delay = d
	case ofWire && hasValue:
		return wrong("nothing after the request's number")
	case ofWire:
	case f.Kind == FaultNeverBoots || f.Kind == FaultRebootHangs:
		if hasValue && value == "" {
			return wrong("a machine's name after =")
		}
		f.Machine = value
	case f.Kind == FaultDiskFull || f.Kind == FaultMemoryShort:
		mb, err := strconv.ParseInt(value, 10, 64)
		if err != nil || mb < 0 {
			return wrong(word + "=MB, such as " + word + "=512")
		}
		f.MB = mb
	default:
		return Fault{}, fmt.Errorf("fault %q is none of:\n%s", text, FaultsHelp)
	}
	return f, nil
}

func (f *Fault) parseRequest(at string) bool {
	number, times, repeated := strings.Cut(at, "x")
	var err error
	if f.Request, err = strconv.Atoi(number); err != nil || f.Request < 1 {
		return false
	}
	if repeated {
		f.Times, err = strconv.Atoi(times)
		return err == nil && f.Times >= 1
	}
	return true
}

// String writes a fault as ParseFault reads it.
func (f Fault) String() string {
	text := string(f.Kind)
	if f.Request > 0 {
		text += "@" + strconv.Itoa(f.Request)
	}
	if f.Times > 1 {
		text += "x" + strconv.Itoa(f.Times)
	}
	switch {
	case f.Kind == FaultSlow:
		text += "=" + f.Delay.String()
	case f.Machine != "":
		text += "=" + f.Machine
	case f.Kind == FaultDiskFull, f.Kind == FaultMemoryShort:
		text += "=" + strconv.FormatInt(f.MB, 10)
	}
	return text
}

// faultList is what goes wrong with a host.
type faultList []Fault

// wireFault is asked by the server before each request. That a fault came to
// pass is logged: a request of its number may never have come.
func (h *Host) wireFault(request int, action string) *wsman.Fault {
	f := h.faults.wire(request)
	if f == nil {
		return nil
	}
	h.log.Warn("a fault that was asked for", "fault", f.String(), "request", request, "action", action)
	return &wsman.Fault{Kind: wireFaults()[f.Kind], Delay: f.Delay}
}

// wire returns what goes wrong with a request, nil when nothing does.
func (l faultList) wire(request int) *Fault {
	kinds := wireFaults()
	for _, f := range l {
		if _, ofWire := kinds[f.Kind]; ofWire && request >= f.Request && request < f.Request+max(f.Times, 1) {
			return &f
		}
	}
	return nil
}

// Befalls says whether one of the faults is of this kind and meant for a machine
// of one of these names.
func Befalls(faults []Fault, kind FaultKind, names ...string) bool {
	return slices.ContainsFunc(faults, func(f Fault) bool {
		return f.Kind == kind && (f.Machine == "" || slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, f.Machine) }))
	})
}

func (l faultList) neverBoots(vm *machine) bool {
	return Befalls(l, FaultNeverBoots, vm.Name, nodeOf(vm.Notes))
}

func (l faultList) rebootHangs(vm *machine) bool {
	return Befalls(l, FaultRebootHangs, vm.Name, nodeOf(vm.Notes))
}

// left returns what a fault of the host leaves it, or all that there is.
func (l faultList) left(kind FaultKind, all int64) int64 {
	for _, f := range l {
		if f.Kind == kind {
			return f.MB
		}
	}
	return all
}

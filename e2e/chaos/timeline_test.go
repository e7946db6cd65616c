package chaos

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The cases below have an action begin at 10 s and hold from 12 s on.
const begins, held = 10 * time.Second, 12 * time.Second

func line(setup []Action, a Action) *Timeline {
	before := after(setup...)
	then := before.Apply(a)
	t := NewTimeline(Settled(before), nil)
	t.Begin(begins, During(before, a, then))
	t.Settle(held, Settled(then))
	return t
}

func TestTheTimelineJudges(t *testing.T) {
	failed := os.ErrDeadlineExceeded
	sec := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	answered := func(from, to float64, backend string) Seen {
		return Seen{Service: 1, New: true, From: sec(from), To: sec(to), Backend: backend, Mode: "dsr"}
	}
	refused := func(from, to float64) Seen {
		return Seen{Service: 1, New: true, From: sec(from), To: sec(to), Err: syscall.ECONNREFUSED}
	}
	silent := func(from, to float64) Seen {
		return Seen{Service: 1, New: true, From: sec(from), To: sec(to), Err: failed}
	}
	cut := refused(9.9, 10.1)
	cut.Err = io.EOF
	cutLater := refused(12.1, 12.2)
	cutLater.Err = syscall.ECONNRESET
	broke := func(from, to float64, backend string) Seen {
		return Seen{Service: 1, From: sec(from), To: sec(to), Backend: backend, Err: failed}
	}
	snat := answered(11, 11.1, "be2")
	snat.Mode = "snat"
	late := snat
	late.Mode, late.From, late.To = "dsr", sec(13), sec(13.1)
	wrong := broke(1, 2, "be1")
	wrong.Err, wrong.Wrong = nil, "be2 answered on a connection to be1"

	drain := Action{Kind: Drain, Backend: "be1", Service: 1}
	deadline := Action{Kind: DrainDeadline, Backend: "be1", Service: 1}
	kill := Action{Kind: KillWeb, Backend: "be1"}
	activate := Action{Kind: Activate, Backend: "be1", Service: 1}
	off := Action{Kind: KillNode, Backend: "be1"}
	down := Action{Kind: Impair, Backend: "be1", Fault: PortDown}
	start := Action{Kind: StartWeb, Backend: "be1"}
	mode := Action{Kind: SwitchMode, Service: 1, Mode: "snat"}
	restart, stop, up := Action{Kind: RestartAgent}, Action{Kind: StopAgent}, Action{Kind: Restore}
	add := Action{Kind: AddBackend, Backend: "be5"}
	remove := Action{Kind: RemoveBackend, Backend: "be1"}
	none := []Action(nil)
	cases := map[string]struct {
		setup  []Action
		action Action
		seen   Seen
		// says is a part of the complaint, "" for none.
		says string
	}{
		"an answer before the draining":                       {none, drain, answered(9, 9.1, "be1"), ""},
		"an answer while the draining begins":                 {none, drain, answered(11, 11.1, "be1"), ""},
		"an answer to who asked while it began":               {none, drain, answered(11.9, 12.1, "be1"), ""},
		"an answer of a drained backend":                      {none, drain, answered(12.1, 12.2, "be1"), "be1 answered a new connection; only these may: be2, be3, be4"},
		"a connection of a draining backend that breaks":      {none, drain, broke(12, 13, "be1"), "nothing was done to it"},
		"a connection that a deadline cuts":                   {none, deadline, broke(11.5, 17, "be1"), ""},
		"another backend's connection at that deadline":       {none, deadline, broke(11.5, 17, "be2"), "nothing was done to it"},
		"a new connection that fails before a kill":           {none, kill, refused(9, 9.5), "all that it could be given to were well"},
		"a new connection that fails over a kill":             {none, kill, refused(9, 10.5), ""},
		"a new connection that fails before the check":        {none, kill, refused(11, 16), ""},
		"a new connection that fails after the check":         {none, kill, refused(12.1, 17), "all that it could be given to were well (be2, be3, be4)"},
		"a killed backend's connection":                       {none, kill, broke(9.9, 10.5, "be1"), ""},
		"a killed backend's connection that was dead before":  {none, kill, broke(9, 9.9, "be1"), "nothing was done to it"},
		"another backend's connection at a kill":              {none, kill, broke(9.9, 10.5, "be2"), "nothing was done to it"},
		"no answer from a backend that is started again":      {[]Action{kill}, start, refused(11, 12), ""},
		"no answer long after it was started":                 {[]Action{kill}, start, refused(12.1, 13), "were well"},
		"a connection at a switch of the mode":                {none, mode, broke(9.9, 11, "be1"), "nothing was done to it"},
		"a new connection at a switch of the mode":            {none, mode, refused(10, 11), "were well"},
		"the new mode during the switch":                      {none, mode, snat, ""},
		"the old mode after it":                               {none, mode, late, "be2 was reached by dsr; new connections take snat"},
		"a connection at a restart of the agent":              {none, restart, broke(9.9, 11, "be1"), "nothing was done to it"},
		"a drained backend's answer while the agent restarts": {[]Action{drain}, restart, answered(10.5, 10.6, "be1"), "only these may: be2, be3, be4"},
		"a dead backend's refusal without an agent":           {[]Action{stop}, kill, refused(30, 35), ""},
		"a drained backend's answer while labctl sets anew":   {[]Action{drain}, up, answered(11, 11.1, "be1"), ""},
		"a drained backend's answer before that":              {[]Action{drain}, up, answered(9, 9.5, "be1"), "only these may"},
		"a dead backend's refusal while labctl sets anew":     {[]Action{kill}, up, refused(11, 11.1), ""},
		"a refusal while a backend is added":                  {none, add, refused(10.5, 11), "were well"},
		"an added backend's answer":                           {none, add, answered(10.5, 11, "be5"), ""},
		"a removed backend's connection":                      {none, remove, broke(10, 11, "be1"), ""},
		"another one's connection at a removal":               {none, remove, broke(10, 11, "be2"), "nothing was done to it"},
		"a dead backend's refusal when it is taken back":      {[]Action{kill, deadline}, activate, refused(10.5, 11), ""},
		"a dead one's refusal long after that":                {[]Action{kill, deadline}, activate, refused(12.1, 13), "were well"},
		"a dead drained backend's refusal once it is active":  {[]Action{kill, drain}, activate, refused(10.5, 11), "were well"},
		"a dead server's silence":                             {[]Action{stop, kill}, Action{Kind: Flood, Service: 1}, silent(11, 16), "failed otherwise than it may (silent): it could be given to be1, be2, be3, be4, and be1 has no web server"},
		"a connection cut when its server is killed":          {none, kill, cut, ""},
		"a connection cut when its server is long dead":       {[]Action{stop}, kill, cutLater, "failed otherwise than it may (cut)"},
		"the silence of a machine that is off":                {none, off, silent(11, 16), ""},
		"a refusal of a machine that was long off":            {[]Action{stop}, off, refused(12.1, 12.2), "failed otherwise than it may (refused)"},
		"the silence behind a port that is down":              {none, down, silent(11, 16), ""},
		"a refusal from behind a port that is down":           {none, down, refused(11, 11.1), "failed otherwise than it may (refused)"},
		"another backend's answer on a connection":            {none, kill, wrong, "be2 answered on a connection to be1"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := line(c.setup, c.action).Judge(c.seen)
			if (c.says == "") != (got == "") || !strings.Contains(got, c.says) {
				t.Errorf("got %q, want %q", got, c.says)
			}
		})
	}
}

// The tables here give each connection to the backend that its address names, if it is
// in the table, and else to the first.
func TestAFailureIsJudgedByWhomTheTableGivesItTo(t *testing.T) {
	choose := func(_ uint32, table Table, local string) string {
		if table[local] > 0 {
			return local
		}
		return slices.Sorted(maps.Keys(table))[0]
	}
	kill := func(name string) Action { return Action{Kind: KillWeb, Backend: name} }
	lossy := Action{Kind: Impair, Backend: "be1", Fault: Loss, Percent: 20}
	drained := Action{Kind: Drain, Backend: "be1", Service: 1}
	cases := map[string]struct {
		setup  []Action
		action Action
		local  string
		err    error
		says   string
	}{
		"one given to the dead":                      {nil, kill("be3"), "be3", syscall.ECONNREFUSED, ""},
		"one given to another":                       {nil, kill("be3"), "be2", syscall.ECONNREFUSED, "all that it could be given to were well (be2)"},
		"one given to the lossy":                     {nil, lossy, "be1", os.ErrDeadlineExceeded, ""},
		"one given to another than the lossy":        {nil, lossy, "be4", os.ErrDeadlineExceeded, "were well (be4)"},
		"one given to the dead once it is known":     {[]Action{kill("be3")}, drained, "be3", syscall.ECONNREFUSED, "were well (be1, be2)"},
		"one given to the dead when another drained": {[]Action{{Kind: StopAgent}, kill("be1"), kill("be2")}, Action{Kind: StartAgent}, "be1", syscall.ECONNREFUSED, ""},
		"one given to the second dead meanwhile":     {[]Action{{Kind: StopAgent}, kill("be1"), kill("be2")}, Action{Kind: StartAgent}, "gone", syscall.ECONNREFUSED, ""},
		"one given to the well meanwhile":            {[]Action{{Kind: StopAgent}, kill("be1"), kill("be2")}, Action{Kind: StartAgent}, "be3", syscall.ECONNREFUSED, "were well (be3)"},
		"one to a weight of 0":                       {[]Action{{Kind: Reweight, Backend: "be1", Service: 1, Share: 0}}, kill("be1"), "be1", syscall.ECONNREFUSED, "were well (be2)"},
		"one while labctl sets the services anew":    {[]Action{kill("be3")}, Action{Kind: Restore}, "be2", os.ErrDeadlineExceeded, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			before := after(c.setup...)
			l := NewTimeline(Settled(before), choose)
			l.Begin(begins, During(before, c.action, before.Apply(c.action)))
			seen := Seen{Service: 1, New: true, From: begins, To: begins, Local: c.local, Err: c.err}
			if got := l.Judge(seen); (c.says == "") != (got == "") || !strings.Contains(got, c.says) {
				t.Errorf("got %q, want %q", got, c.says)
			}
		})
	}
}

func TestWaysToFail(t *testing.T) {
	cases := map[string]struct {
		err  error
		want Way
	}{
		"nobody listens":             {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, Refused},
		"a reset while it is asked":  {&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, Cut},
		"an end before the answer":   {io.ErrUnexpectedEOF, Cut},
		"no answer to the SYN":       {&net.OpError{Op: "dial", Err: context.DeadlineExceeded}, Silent},
		"no answer to the request":   {&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, Silent},
		"no answer, the kernel says": {syscall.ETIMEDOUT, Silent},
		"no way to the host":         {syscall.EHOSTUNREACH, Otherwise},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := wayOf(c.err); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestAServiceThatIsNotThere(t *testing.T) {
	l := NewTimeline(Settled(lab()), nil)
	if !l.Has(1) || l.Has(3) {
		t.Error("the lab has the services 1 and 2")
	}
	failed := Seen{Service: 3, Backend: "be1", Err: errors.New("reset")}
	if got := l.Judge(failed); got != "" {
		t.Errorf("a connection of a service that is not there: %s", got)
	}
}

func TestTheTimelineForgetsWhatIsLongPast(t *testing.T) {
	l := NewTimeline(Settled(lab()), nil)
	for i := range 1000 {
		l.Settle(time.Duration(i)*time.Second, Settled(lab()))
	}
	if n := len(l.epochs); n > 70 {
		t.Errorf("%d epochs are kept", n)
	}
}

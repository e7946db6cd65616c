package hvsim

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
	"l4lab/lab/provider/hyperv/scripts"
)

func TestEveryVerbOfTheContractHasAFunctionAndNoOther(t *testing.T) {
	contracts, err := scripts.New().Contracts()
	if err != nil {
		t.Fatal(err)
	}
	table := handlers(scripts.New())
	for _, c := range contracts {
		if table[c.Name] == nil {
			t.Errorf("verb %s has no function", c.Name)
		}
		delete(table, c.Name)
	}
	for name := range table {
		t.Errorf("function %s has no verb", name)
	}
}

func TestWhatIsNotTheBootstrapIsAnsweredAsCmdDoes(t *testing.T) {
	h := startHost(t, Options{})
	other := base64.StdEncoding.EncodeToString([]byte("G\x00e\x00t\x00"))
	for name, c := range map[string]struct {
		line, out, err string
		arguments      []string
		code           int
	}{
		"hostname says the computer's name":                   {line: "hostname", out: "HVSIM\r\n"},
		"echo by cmd /c":                                      {line: "cmd /c echo hello there", out: "hello there\r\n"},
		"arguments given apart":                               {line: "cmd.exe", arguments: []string{"/c", "echo", "hi"}, out: "hi\r\n"},
		"ver says that it is simulated":                       {line: "ver", out: "\r\nMicrosoft Windows [Version 10.0.20348] (simulated)\r\n"},
		"ipconfig without a switch":                           {line: "ipconfig /all", out: "\r\nWindows IP Configuration (simulated)\r\n"},
		"an unknown program":                                  {line: "format.com c:", err: "'format.com' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n", code: 1},
		"a program's name with a quote":                       {line: `"x`, err: "'\"x' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n", code: 1},
		"PowerShell with another script than the bootstrap":   {line: "powershell.exe -EncodedCommand " + other, err: "'powershell.exe' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n", code: 1},
		"PowerShell with the bootstrap and one flag too many": {line: powershell.CommandLine() + " -NoExit", err: "'powershell.exe' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n", code: 1},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			code := h.run(t.Context(), wsman.Process{CommandLine: c.line, Arguments: c.arguments, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut})
			if code != c.code || out.String() != c.out || errOut.String() != c.err {
				t.Errorf("got %d, %q, %q; want %d, %q, %q", code, out.String(), errOut.String(), c.code, c.out, c.err)
			}
		})
	}
}

func TestBootstrapWithoutItsThreeLinesFails(t *testing.T) {
	h := startHost(t, Options{})
	var out, errOut bytes.Buffer
	code := h.run(t.Context(), wsman.Process{CommandLine: powershell.CommandLine(), Stdin: strings.NewReader("nonsense\n"), Stdout: &out, Stderr: &errOut})
	if code == 0 || errOut.Len() == 0 {
		t.Errorf("got exit code %d and %q on stderr", code, errOut.String())
	}
}

func TestAScriptThatIsNotInTheContractIsNamedByItsHash(t *testing.T) {
	b := newBench(t, Options{})
	changed := b.v.SwitchEnsure.Script
	changed.Text += " "
	err := b.r.Run(t.Context(), powershell.Call{Script: changed, Input: scripts.SwitchEnsureParams{Name: lan, Mark: mark}})
	wantFailure(t, err, "unknownScript", changed.Hash())
}

func TestParametersAreBoundAsPowerShellBindsThem(t *testing.T) {
	b := newBench(t, Options{})
	for name, c := range map[string]struct{ input, code, words string }{
		"an unknown parameter":                    {`{"name":"x","mark":"m","size":3}`, "NamedParameterNotFound", "'size'"},
		"a parameter in another case":             {`{"Name":"x","mark":"m"}`, "NamedParameterNotFound", "'Name'"},
		"a missing parameter":                     {`{"name":"x"}`, "MissingMandatoryParameter", "mark"},
		"no parameters at all":                    {`{}`, "MissingMandatoryParameter", "name mark"},
		"a parameter that is null":                {`{"name":null,"mark":"m"}`, "ParameterArgumentValidationErrorNullNotAllowed", "'Name'"},
		"an empty string":                         {`{"name":"","mark":"m"}`, "ParameterArgumentValidationErrorEmptyStringNotAllowed", "'Name'"},
		"a value of another type":                 {`{"name":["x"],"mark":"m"}`, "ParameterArgumentTransformationError", "'name'"},
		"parameters that are right make no error": {`{"name":"x","mark":"m"}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := b.r.Run(t.Context(), powershell.Call{Script: b.v.SwitchEnsure.Script, Input: json.RawMessage(c.input)})
			if c.code == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantFailure(t, err, c.code, c.words)
		})
	}
}

func TestUnknownKeysWithinAParameterAreRefused(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	input := `{"switch":"l4lab-demo","mark":"` + mark + `","routes":[{"destination":"40.1.1.1/32","via":"20.1.1.1","metric":1}]}`
	err := b.r.Run(t.Context(), powershell.Call{Script: b.v.HostRoutesEnsure.Script, Input: json.RawMessage(input)})
	wantFailure(t, err, "ParameterArgumentTransformationError", "metric")
}

func TestEmptyListsAreListsInAnAnswer(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	var answer json.RawMessage
	err := b.r.Run(t.Context(), powershell.Call{Script: b.v.LabObserve.Script, Result: &answer, Input: scripts.LabObserveParams{
		Mark: mark, Switch: lan, Names: []string{}, Folder: folder,
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"machines":[]`, `"foreign":[]`, `"portProxies":[]`, `"routes":[]`} {
		if !strings.Contains(string(answer), want) {
			t.Errorf("the answer lacks %s: %s", want, answer)
		}
	}
}

func TestAHostThatLacksSomethingSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Profile)
		code   string
		check  func(scripts.HostCheckResult) bool
	}{
		"without the Hyper-V feature": {func(p *Profile) { p.NoHyperV = true }, "CommandNotFoundException",
			func(r scripts.HostCheckResult) bool { return !r.HyperV && r.Module == "" }},
		"for a user who is no administrator": {func(p *Profile) { p.NotElevated = true }, "AccessDenied",
			func(r scripts.HostCheckResult) bool { return !r.Elevated }},
		"without pktmon": {func(p *Profile) { p.Pktmon = false }, "",
			func(r scripts.HostCheckResult) bool { return !r.Pktmon }},
		"without an SSH server": {func(p *Profile) { p.SSHServer = "" }, "",
			func(r scripts.HostCheckResult) bool { return r.SSHServer == "" }},
	} {
		t.Run(name, func(t *testing.T) {
			profile := Server2022()
			c.change(&profile)
			b := newBench(t, Options{Profile: profile})
			r := must(b, b.v.HostCheck, scripts.HostCheckParams{Folder: folder, Names: []string{lan}, Mark: mark})
			if !c.check(r) || !r.Simulated {
				t.Errorf("got %+v", r)
			}
			if c.code != "" {
				refuse(b, b.v.SwitchEnsure, scripts.SwitchEnsureParams{Name: lan, Mark: mark}, c.code)
			} else {
				must(b, b.v.SwitchEnsure, scripts.SwitchEnsureParams{Name: lan, Mark: mark})
			}
		})
	}
}

func TestHostCheckCountsWhatIsLeft(t *testing.T) {
	b := newBench(t, Options{MemoryMB: 4096, DiskMB: 100, Processors: 7})
	b.lay()
	check := func() scripts.HostCheckResult {
		return must(b, b.v.HostCheck, scripts.HostCheckParams{Folder: folder, Names: []string{lan, "demo-lb"}, Mark: mark})
	}
	if r := check(); r.FreeMemoryMB != 4096 || r.FreeDiskMB != 99 || r.Processors != 7 || len(r.Foreign) != 0 {
		t.Errorf("got %+v", r)
	}
	b.start(b.machine("lb", linuxImage).ID)
	b.upload(`C:\big`, make([]byte, 20<<20))
	if r := check(); r.FreeMemoryMB != 2048 || r.FreeDiskMB != 79 {
		t.Errorf("with a machine on and a file more: got %+v", r)
	}
	if _, err := b.h.PlaceMachine("demo-LB", "mine"); err != nil {
		t.Fatal(err)
	}
	if r := check(); len(r.Foreign) != 1 || r.Foreign[0] != "machine demo-LB" {
		t.Errorf("with a foreign machine: got %v", r.Foreign)
	}
}

package pscheck_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"l4lab/lab/powershell"
	"l4lab/lab/powershell/pscheck"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/windows/guestscripts"
)

const (
	bootstrap  = "../bootstrap.ps1"
	hostVerbs  = "../../provider/hyperv/scripts"
	guestVerbs = "../../role/windows/guestscripts"
	fileVerbs  = "../transfer"
	// firstStart runs in a guest by itself: it is no verb.
	firstStart = "../../guest/answer/start.ps1"
)

// rules are this project's: who may do what others may not.
var rules = pscheck.Rules{
	Natives: []string{
		"netsh.exe", "pktmon.exe", "bcdedit.exe", "msiexec.exe", "sc.exe", "shutdown.exe",
		"powershell.exe", // XDP's own set-up script, a file
	},
	Blocks:    []string{"bootstrap", "guest-invoke"},
	Processes: []string{"host-exec", "exec"},
	Remote:    []string{"guest-invoke", "guest-push", "guest-pull"},
}

// given are variables that a script finds set: the bootstrap's reader, and the
// folder of one that is run from a file.
var given = map[string][]string{
	"start":        {"psscriptroot"},
	"file-receive": {"standardinput"},
	"host-exec":    {"standardinput"},
}

// through are properties of results that a script takes from data as they are.
var through = map[string][]string{
	"lab-observe": {"listenAddress", "listenPort", "connectAddress", "connectPort", "folder"},
}

// parser returns the parser's folder. In CI its lack is a failure.
func parser(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir, err := pscheck.Install(t.Context(), cache)
	if errors.Is(err, pscheck.ErrNoParser) && os.Getenv("CI") != "true" {
		t.Skipf("left out: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func parse(t *testing.T, files []string) []pscheck.Script {
	t.Helper()
	parsed, err := pscheck.Parse(context.WithoutCancel(t.Context()), parser(t), files)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// files returns the scripts of a folder; tests among them when wanted.
func files(t *testing.T, dir string, pester bool) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.ps1"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no scripts in %s: %v", dir, err)
	}
	return slices.DeleteFunc(found, func(f string) bool { return strings.HasSuffix(f, ".Tests.ps1") != pester })
}

func report(t *testing.T, found []pscheck.Finding) {
	t.Helper()
	for _, f := range found {
		t.Error(f)
	}
}

// side is a folder of verbs with their contracts by name.
type side struct {
	dir       string
	contracts map[string]powershell.Contract
}

func sides(t *testing.T) []side {
	t.Helper()
	host, err := scripts.New().Contracts()
	if err != nil {
		t.Fatal(err)
	}
	guest, err := guestscripts.New().Contracts()
	if err != nil {
		t.Fatal(err)
	}
	list := []side{{hostVerbs, map[string]powershell.Contract{}}, {guestVerbs, map[string]powershell.Contract{}}, {fileVerbs, map[string]powershell.Contract{}}}
	for _, c := range transfer.NewVerbs().List() {
		delete(host, c.Hash()) // a host has them too, from there
		list[2].contracts[c.Name] = c
	}
	for i, contracts := range []powershell.Contracts{host, guest} {
		for _, c := range contracts {
			list[i].contracts[c.Name] = c
		}
	}
	return list
}

func TestEveryScriptUsesOnlyWhatIsDocumentedAndKeepsItsContract(t *testing.T) {
	table, err := pscheck.ReadTable()
	if err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T, s pscheck.Script) {
		report(t, pscheck.Syntax(s))
		report(t, pscheck.Commands(s, table, rules))
		report(t, pscheck.Variables(s, given[s.Name]...))
	}
	for _, s := range parse(t, []string{bootstrap, firstStart}) {
		check(t, s)
	}
	for _, side := range sides(t) {
		for _, s := range parse(t, files(t, side.dir, false)) {
			check(t, s)
			c, ok := side.contracts[s.Name]
			if !ok {
				t.Errorf("%s/%s.ps1 is no verb", side.dir, s.Name)
				continue
			}
			report(t, pscheck.Contract(s, c, through[s.Name]...))
			delete(side.contracts, s.Name)
		}
		for name := range side.contracts {
			t.Errorf("%s has no script %s.ps1", side.dir, name)
		}
	}
	for _, row := range table.Unused() {
		t.Errorf("cmdlets.tsv: no script uses %s", row)
	}
}

func TestPesterTestsAndStubsCanBeRead(t *testing.T) {
	all := slices.Concat(files(t, hostVerbs, true), files(t, guestVerbs, true), files(t, fileVerbs, true))
	stubs, err := filepath.Glob(filepath.Join(hostVerbs, "testdata/*/*.psm1"))
	if err != nil || len(stubs) == 0 {
		t.Fatalf("no stub module: %v", err)
	}
	for _, s := range parse(t, append(all, stubs...)) {
		report(t, pscheck.Syntax(s))
	}
}

func TestEveryScriptIsPlainText(t *testing.T) {
	all := slices.Concat([]string{bootstrap, firstStart}, files(t, hostVerbs, false), files(t, guestVerbs, false), files(t, fileVerbs, false),
		files(t, hostVerbs, true), files(t, guestVerbs, true), files(t, fileVerbs, true))
	for _, file := range all {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		report(t, pscheck.Text(strings.TrimSuffix(filepath.Base(file), ".ps1"), string(text)))
	}
}

// A verb fits a screen or two; its help does not count.
func TestEveryVerbIsShort(t *testing.T) {
	const most = 120
	for _, file := range slices.Concat(files(t, hostVerbs, false), files(t, guestVerbs, false), files(t, fileVerbs, false)) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, code, _ := strings.Cut(string(text), "#>\n")
		if lines := strings.Count(code, "\n"); lines > most {
			t.Errorf("%s has %d lines, at most %d can be read at once", filepath.Base(file), lines, most)
		}
	}
}

func TestTheBootstrapFitsACommandLine(t *testing.T) {
	text, err := os.ReadFile(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 3000 {
		t.Errorf("bootstrap.ps1 has %d characters, more than 3,000", len(text))
	}
	var encoded []byte
	for _, unit := range utf16.Encode([]rune(string(text))) {
		encoded = binary.LittleEndian.AppendUint16(encoded, unit)
	}
	line := "powershell.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -EncodedCommand " +
		base64.StdEncoding.EncodeToString(encoded)
	if len(line) >= 8191 {
		t.Errorf("the command line has %d characters; Windows takes 8,191", len(line))
	}
	// ConsoleHost.cs of PowerShell: a command that uses this variable has its standard input read by the host.
	if strings.Contains(strings.ToLower(string(text)), "$input") {
		t.Error("bootstrap.ps1 names $input")
	}
}

func TestTheLockFileNamesNoRegistry(t *testing.T) {
	lock, err := os.ReadFile("parse/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"resolved", "http:", "https:"} {
		if strings.Contains(string(lock), word) {
			t.Errorf("package-lock.json has %q: make it with npm install --package-lock-only --omit-lockfile-registry-resolved", word)
		}
	}
}

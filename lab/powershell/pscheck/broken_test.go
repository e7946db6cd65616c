package pscheck_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l4lab/lab/powershell"
	"l4lab/lab/powershell/pscheck"
)

type brokenParams struct {
	Name  string   `json:"name"`
	Count int64    `json:"count"`
	Tags  []string `json:"tags"`
	Host  bool     `json:"host"`
}

type brokenResult struct {
	Removed bool `json:"removed"`
}

// sound is a verb without a fault; each case changes one thing in it.
const sound = `<#
.SYNOPSIS
Removes a machine.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: removed.
Errors: notFound: there is none.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Name,
    [Parameter(Mandatory)] [long] $Count,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [string[]] $Tags,
    [Parameter(Mandatory)] [Alias('Host')] [bool] $HostAdapter
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw "$Code $Message $Target"
}

if ($HostAdapter -and $Count -gt 0 -and $Tags) { Stop-Verb 'notFound' 'there is none' $Name }
$vm = Get-VM -Id $Name
Set-VM -VM $vm -AutomaticStopAction 'ShutDown'
Remove-VM -VM $vm -Force -Confirm:$false
$arguments = 'list', '--json'
$output = & pktmon.exe @arguments
[pscustomobject]@{ removed = [bool]$output }
`

func TestAFaultInAScriptIsFound(t *testing.T) {
	cases := []struct {
		name, from, to, want string
	}{
		{"a sound script has none", "", "", ""},
		{"a command that nobody documents", "Get-VM -Id $Name", "Get-Machine -Id $Name", "unknown command Get-Machine"},
		{"a parameter that does not exist", "Get-VM -Id", "Get-VM -Identifier", "no parameter -Identifier"},
		{"a value that is not accepted", "'ShutDown'", "'Explode'", "does not accept Explode"},
		{"a value without quotes that is not accepted", "'ShutDown'", "Explode", "does not accept Explode"},
		{"an argument by its place", "Get-VM -Id $Name", "Get-VM $Name", "without a parameter's name"},
		{"splatting, which hides parameters", "Get-VM -Id $Name", "Get-VM @arguments", "without a parameter's name"},
		{"a parameter without its value", "Get-VM -Id $Name", "Get-VM -Id", "lacks its value"},
		{"a syntax error", "if ($HostAdapter", "if (($HostAdapter", "syntax error"},
		{"a brace that is not closed", "there is none' $Name }", "there is none' $Name", "syntax error"},
		{"no help", "<#", "#", "help"},
		{"help without a part", "Needs: nothing.\n", "", "help lacks \"Needs:\""},
		{"help without an error", "Errors: notFound: there is none.", "Errors: none of its own.", "help does not name error notFound"},
		{"help with an error too many", "there is none.\n#>", "there is none. inUse: it is used.\n#>", "names error inUse"},
		{"a parameter that is missing", "    [Parameter(Mandatory)] [long] $Count,\n", "", "lacks parameter count"},
		{"a parameter that Go does not send", "[long] $Count,", "[long] $Count,\n    [Parameter(Mandatory)] [int] $More,", "parameter more is not in"},
		{"a parameter of another type", "[long] $Count", "[int] $Count", "is not [long]"},
		{"a parameter that may be left out", "[Parameter(Mandatory)] [string]", "[string]", "lacks [Parameter(Mandatory)]"},
		{"a list that may not be empty", "[AllowEmptyCollection()] ", "", "lacks [AllowEmptyCollection()]"},
		{"a parameter named as PowerShell's own variable", "[Alias('Host')] [bool] $HostAdapter", "[bool] $Host", "automatic variable"},
		{"a result without a property", "removed =", "gone =", "returns no object with all of removed"},
		{"an error that the verb does not list", "'notFound' 'there", "'foreign' 'there", "gives error foreign"},
		{"an error that is never given", "Stop-Verb 'notFound' 'there is none' $Name", "return", "never gives error notFound"},
		{"a variable that is set nowhere", "Get-VM -Id $Name", "Get-VM -Id $Nmae", "$Nmae is set nowhere"},
		{"Invoke-Expression", "$vm = Get-VM -Id $Name", "$vm = Invoke-Expression -Command $Name", "unknown command Invoke-Expression"},
		{"its short name", "$vm = Get-VM -Id $Name", "$vm = iex $Name", "unknown command iex"},
		{"a command made of text", "& pktmon.exe", "& \"$Name.exe\"", "a call of a name made of text"},
		{"a command made of pieces", "& pktmon.exe", "& ('pkt' + $Name)", "a call of a name made of text"},
		{"a command in a variable", "& pktmon.exe", "& $Name", "a call of what is in $name"},
		{"a file that is sourced", "$vm = Get-VM -Id $Name", ". $Name", "a call by \".\""},
		{"a program that is not on the list", "& pktmon.exe", "& cmd.exe", "unknown program cmd.exe"},
		{"a block made of text", "[bool]$output", "[scriptblock]::Create(\"Get-VM $Name\").Invoke()", "makes code from text"},
		{"a pipeline made of text", "[bool]$output", "[powershell]::Create()", "makes code from text"},
		{"text run by the engine", "[bool]$output", "$vm.InvokeScript($Name)", "makes code from text"},
		{"a process by .NET", "[bool]$output", "[System.Diagnostics.Process]::Start($Name)", "starts processes"},
		{"something run in another session", "$vm = Get-VM -Id $Name", "$vm = Invoke-Command -ScriptBlock { $Name }", "nothing in other sessions"},
		{"a carriage return", "$vm = Get-VM", "\r\n$vm = Get-VM", "carriage return"},
		{"a character that is not ASCII", "there is none' $Name", "there is n\u00f6ne' $Name", "not ASCII"},
		{"a line that nobody can read", "'list', '--json'", "'" + strings.Repeat("x", 200) + "'", "characters"},
	}
	dir := t.TempDir()
	var paths []string
	for i, c := range cases {
		if c.from != "" && strings.Count(sound, c.from) == 0 {
			t.Fatalf("%s: the sound script has no %q", c.name, c.from)
		}
		path := filepath.Join(dir, string(rune('a'+i/26))+string(rune('a'+i%26))+".ps1")
		if err := os.WriteFile(path, []byte(strings.Replace(sound, c.from, c.to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	table, err := pscheck.ReadTable()
	if err != nil {
		t.Fatal(err)
	}
	verb := powershell.Verb[brokenParams, brokenResult]{Codes: []string{"notFound"}}
	for i, s := range parse(t, paths) {
		t.Run(cases[i].name, func(t *testing.T) {
			found := slices.Concat(pscheck.Text(s.Name, s.Text), pscheck.Syntax(s),
				pscheck.Commands(s, table, rules), pscheck.Variables(s), pscheck.Contract(s, verb.Contract()))
			if cases[i].want == "" {
				report(t, found)
				return
			}
			if !slices.ContainsFunc(found, func(f pscheck.Finding) bool { return strings.Contains(f.Text, cases[i].want) }) {
				t.Errorf("found %v, nothing of %q", found, cases[i].want)
			}
		})
	}
}

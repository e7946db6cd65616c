package pscheck

import (
	"slices"
	"strings"
)

// automatic are the variables that PowerShell sets itself and that scripts may read.
var automatic = []string{
	"_", "true", "false", "null", "lastexitcode", "matches", "psversiontable",
	"erroractionpreference", "progresspreference",
}

// reserved are automatic variables that no parameter may be named after: what
// is passed would not arrive (Input), or could not be bound (Host)
// (about_Automatic_Variables).
var reserved = []string{
	"args", "consolefilename", "enabledexperimentalfeatures", "error", "event", "eventargs", "eventsubscriber",
	"executioncontext", "false", "foreach", "home", "host", "input", "iscoreclr", "islinux", "ismacos", "iswindows",
	"lastexitcode", "matches", "myinvocation", "nestedpromptlevel", "null", "pid", "profile", "psboundparameters",
	"pscmdlet", "pscommandpath", "psculture", "psdebugcontext", "psedition", "pshome", "psitem", "psscriptroot",
	"pssenderinfo", "psuiculture", "psversiontable", "pwd", "sender", "shellid", "stacktrace", "this", "true",
}

// Variables returns the variables that are read and nowhere set: strict mode
// would stop there, but only when it gets there. Given names variables that
// the script finds set.
func Variables(s Script, given ...string) []Finding {
	set := slices.Concat(automatic, given)
	mark := func(n *Node) { set = append(set, variableName(s.text(n))) }
	s.Root.walk(func(n *Node) bool {
		switch n.Type {
		case "script_parameter":
			mark(n.Children[len(n.Children)-1])
		case "foreach_statement":
			if v := n.child("variable"); v != nil {
				mark(v)
			}
		case "left_assignment_expression":
			for _, v := range n.all("variable") {
				mark(v)
			}
		}
		return true
	})
	var found []Finding
	for _, v := range s.Root.all("variable") {
		name := variableName(s.text(v))
		if strings.HasPrefix(name, "env:") || slices.Contains(set, name) {
			continue
		}
		found = append(found, s.finding(v, "%s is set nowhere", s.text(v)))
	}
	return found
}

func variableName(text string) string {
	name := strings.ToLower(strings.Trim(text, "$@{}"))
	return strings.TrimPrefix(name, "global:")
}

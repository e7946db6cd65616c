package pscheck

import (
	"slices"
	"strings"
)

// Rules say what single scripts may do that others may not.
type Rules struct {
	// Natives are the programs that may be called, by "&" and their full name.
	Natives []string
	// Blocks are the scripts that may run a script block from a variable or
	// make one from text: what they run came as a whole from the caller.
	Blocks []string
	// Processes are the scripts that may start processes by .NET.
	Processes []string
	// Remote are the scripts that may run something in another machine's session.
	Remote []string
}

// positional are the cmdlets whose first argument needs no parameter name.
var positional = []string{"where-object", "foreach-object"}

// Commands returns what is wrong with the commands of a script: not in the
// table, with parameters that do not exist, with values that are not accepted,
// or made of text. Used rows of the table are marked.
func Commands(s Script, table Table, rules Rules) []Finding {
	var functions []string
	for _, name := range s.Root.all("function_name") {
		functions = append(functions, strings.ToLower(s.text(name)))
	}
	c := commandCheck{s: s, table: table, rules: rules, functions: functions}
	s.Root.walk(func(n *Node) bool {
		switch n.Type {
		case "command":
			c.command(n)
		case "type_literal":
			c.typeLiteral(n)
		case "invokation_expression":
			c.method(n)
		}
		return true
	})
	return c.found
}

type commandCheck struct {
	s         Script
	table     Table
	rules     Rules
	functions []string
	found     []Finding
}

func (c *commandCheck) add(n *Node, format string, args ...any) {
	c.found = append(c.found, c.s.finding(n, format, args...))
}

func (c *commandCheck) command(n *Node) {
	if operator := n.child("command_invokation_operator"); operator != nil {
		c.invoked(n, c.s.text(operator))
		return
	}
	named := n.child("command_name")
	if named == nil {
		c.add(n, "a command without a name: %q", c.s.text(n))
		return
	}
	name := strings.ToLower(c.s.text(named))
	if slices.Contains(c.functions, name) {
		return
	}
	parameters, known := c.table[name]
	if !known {
		c.add(n, "unknown command %s", c.s.text(named))
		return
	}
	if name == "invoke-command" && !slices.Contains(c.rules.Remote, c.s.Name) {
		c.add(n, "this script may run nothing in other sessions")
	}
	c.arguments(n, c.s.text(named), parameters)
}

// invoked checks a call by an operator: of a program that is known, or of a
// script block where that is allowed.
func (c *commandCheck) invoked(n *Node, operator string) {
	target := n.child("command_name_expr")
	if operator != "&" || target == nil {
		c.add(n, "a call by %q", operator)
		return
	}
	text := strings.ToLower(c.s.text(target))
	switch kind := target.bare().Type; {
	case kind == "command_name":
		if !slices.Contains(c.rules.Natives, text) {
			c.add(n, "unknown program %s", text)
		}
	case strings.HasPrefix(text, "$") && target.child("path_command_name") != nil:
		if !slices.Contains(c.rules.Blocks, c.s.Name) {
			c.add(n, "a call of what is in %s", text)
		}
	default:
		c.add(n, "a call of a name made of text: %s", text)
	}
}

// arguments checks parameters and their values against the table.
func (c *commandCheck) arguments(n *Node, cmdlet string, parameters map[string]*Parameter) {
	var args []*Node
	if elements := n.child("command_elements"); elements != nil {
		for _, e := range elements.Children {
			if e.Type != "command_argument_sep" && e.Type != "redirection" {
				args = append(args, e)
			}
		}
	}
	if row := parameters["-"]; row != nil {
		row.used = true
	}
	for i := 0; i < len(args); i++ {
		if args[i].Type != "command_parameter" {
			if !(i == 0 && slices.Contains(positional, strings.ToLower(cmdlet))) {
				c.add(args[i], "%s gets %s without a parameter's name", cmdlet, c.s.text(args[i]))
			}
			continue
		}
		name := strings.Trim(c.s.text(args[i]), "-:")
		p := parameters[strings.ToLower(name)]
		if p == nil {
			c.add(args[i], "%s has no parameter -%s", cmdlet, name)
			continue
		}
		p.used = true
		hasValue := i+1 < len(args) && args[i+1].Type != "command_parameter"
		// A switch takes a value only after a colon.
		if p.Type == "switch" && !(hasValue && strings.HasPrefix(c.s.Text[args[i].End:], ":")) {
			continue
		}
		if !hasValue {
			c.add(args[i], "%s -%s lacks its value", cmdlet, name)
			continue
		}
		i++
		c.value(args[i], cmdlet, p)
	}
}

func (c *commandCheck) value(n *Node, cmdlet string, p *Parameter) {
	if strings.EqualFold(p.Type, "ScriptBlock") {
		if kind := n.bare().Type; n.all("script_block_expression") == nil && kind != "variable" && !strings.HasPrefix(c.s.text(n), "$") {
			c.add(n, "%s -%s is not a literal block", cmdlet, p.Name)
		}
		return
	}
	if len(p.Values) == 0 {
		return
	}
	for _, literal := range append(n.all("verbatim_string_characters"), n.all("generic_token")...) {
		value := strings.Trim(c.s.text(literal), "'")
		if !slices.ContainsFunc(p.Values, func(v string) bool { return strings.EqualFold(v, value) }) {
			c.add(literal, "%s -%s does not accept %s, only %s", cmdlet, p.Name, value, strings.Join(p.Values, ", "))
		}
	}
}

func (c *commandCheck) typeLiteral(n *Node) {
	name := strings.ToLower(strings.Trim(c.s.text(n), "[]"))
	switch {
	case name == "scriptblock" || name == "powershell" || strings.HasSuffix(name, ".scriptblock") || strings.HasSuffix(name, ".powershell"):
		if !slices.Contains(c.rules.Blocks, c.s.Name) {
			c.add(n, "type [%s] makes code from text", name)
		}
	case strings.HasSuffix(name, "diagnostics.process") || strings.HasSuffix(name, "diagnostics.processstartinfo"):
		if !slices.Contains(c.rules.Processes, c.s.Name) {
			c.add(n, "type [%s] starts processes", name)
		}
	}
}

// codeMethods are those by which text, or what is in a variable, becomes code.
var codeMethods = []string{"invokescript", "newscriptblock", "invokereturnasis", "invokewithcontext", "addscript", "addcommand"}

func (c *commandCheck) method(n *Node) {
	member := n.child("member_name")
	if member == nil {
		return
	}
	if name := strings.ToLower(c.s.text(member)); slices.Contains(codeMethods, name) {
		c.add(n, "method %s makes code from text", c.s.text(member))
	}
}

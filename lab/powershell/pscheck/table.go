package pscheck

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:embed cmdlets.tsv
var cmdlets string

// Parameter is a row of the table.
type Parameter struct {
	Module, Cmdlet, Name, Type string
	// Values are the only ones accepted; none: any.
	Values []string
	// Since is the first Windows Server whose reference has it, or "Windows PowerShell 5.1".
	Since string

	used bool
}

// Table is the rows by cmdlet and parameter, in lower case: PowerShell does not
// tell case apart.
type Table map[string]map[string]*Parameter

// ReadTable reads cmdlets.tsv.
func ReadTable() (Table, error) { return parseTable(cmdlets) }

func parseTable(text string) (Table, error) {
	table := Table{}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		columns := strings.Split(line, "\t")
		if len(columns) != 6 {
			return nil, fmt.Errorf("cmdlets.tsv:%d: %d columns, not 6", i+1, len(columns))
		}
		p := &Parameter{Module: columns[0], Cmdlet: columns[1], Name: columns[2], Type: columns[3], Since: columns[5]}
		if columns[4] != "-" {
			p.Values = strings.Split(columns[4], ",")
		}
		cmdlet := strings.ToLower(p.Cmdlet)
		if table[cmdlet] == nil {
			table[cmdlet] = map[string]*Parameter{}
		}
		table[cmdlet][strings.ToLower(p.Name)] = p
	}
	return table, nil
}

// Unused returns the rows that no script used so far.
func (t Table) Unused() []string {
	var unused []string
	for _, parameters := range t {
		for _, p := range parameters {
			if !p.used {
				unused = append(unused, p.Cmdlet+" "+p.Name)
			}
		}
	}
	return unused
}

package hvsim

import (
	"encoding/json"
	"strings"
	"testing"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/windows/guestscripts"
)

func TestTheParamBlockOfEveryScriptIsRead(t *testing.T) {
	host, err := scripts.New().Contracts()
	if err != nil {
		t.Fatal(err)
	}
	guest, err := guestscripts.New().Contracts()
	if err != nil {
		t.Fatal(err)
	}
	for _, contracts := range []powershell.Contracts{host, guest} {
		for _, c := range contracts {
			rules := parametersOf(c.Text)
			names := parameterNames(c.Params)
			for _, name := range names {
				if _, ok := rules[strings.ToLower(name)]; !ok {
					t.Errorf("%s: parameter %s was not found in the script", c.Name, name)
				}
			}
			if len(rules) != len(names) {
				t.Errorf("%s: the script has %d parameters, the contract %d", c.Name, len(rules), len(names))
			}
		}
	}
}

func TestAnEmptyValueIsBoundWhereTheScriptAllowsIt(t *testing.T) {
	const script = "param(\n" +
		"    [Parameter(Mandatory)] [string] $Plain,\n" +
		"    [Parameter(Mandatory)] [AllowEmptyString()] [string] $Text,\n" +
		"    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [string[]] $List,\n" +
		"    [Parameter(Mandatory)] [Alias('Host')] [AllowNull()] [psobject] $Other\n" +
		")\n"
	type params struct {
		Plain string          `json:"plain"`
		Text  string          `json:"text"`
		List  []string        `json:"list"`
		Host  json.RawMessage `json:"host"`
	}
	for name, c := range map[string]struct{ input, code string }{
		"all that is allowed":       {`{"plain":"x","text":"","list":[],"host":null}`, ""},
		"a list that is null":       {`{"plain":"x","text":"","list":null,"host":{}}`, ""},
		"an empty string":           {`{"plain":"","text":"","list":[],"host":null}`, "ParameterArgumentValidationErrorEmptyStringNotAllowed"},
		"an empty string in a list": {`{"plain":"x","text":"","list":["a",""],"host":null}`, "ParameterArgumentValidationErrorEmptyStringNotAllowed"},
		"a string that is null":     {`{"plain":"x","text":null,"list":[],"host":null}`, "ParameterArgumentValidationErrorNullNotAllowed"},
		"no object":                 {`[]`, "ConvertFromJsonCommand"},
		"nothing":                   {`null`, "ConvertFromJsonCommand"},
	} {
		t.Run(name, func(t *testing.T) {
			var p params
			err := bind(script, json.RawMessage(c.input), &p)
			if c.code == "" && err != nil || c.code != "" && (err == nil || failureOf(err).code != c.code) {
				t.Errorf("got %v, want code %q", err, c.code)
			}
		})
	}
}

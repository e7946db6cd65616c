package powershell

import (
	"context"
	"fmt"
	"reflect"
)

// Verb is a script with the types of its parameters, P, and of its result, R:
// structs whose fields have json tags, the keys being the script's parameters
// and the properties of what it returns.
type Verb[P, R any] struct {
	Script
	// Codes are the error codes that the script itself gives.
	Codes []string
}

// Run runs the verb.
func (v Verb[P, R]) Run(ctx context.Context, on Runner, p P) (R, error) {
	var r R
	err := on.Run(ctx, Call{Script: v.Script, Input: p, Result: &r})
	return r, err
}

// Contract returns the verb's row in a contract table.
func (v Verb[P, R]) Contract() Contract {
	return Contract{Script: v.Script, Params: reflect.TypeFor[P](), Result: reflect.TypeFor[R](), Codes: v.Codes}
}

// Contract is a verb with its types as values: what the scripts' tests and the
// simulated host hold a script against.
type Contract struct {
	Script
	Params, Result reflect.Type
	Codes          []string
}

// Contracts finds contracts by the hash of the script's text.
type Contracts map[string]Contract

// NewContracts returns contracts by hash. Two of the same text are a mistake.
func NewContracts(list ...Contract) (Contracts, error) {
	byHash := make(Contracts, len(list))
	for _, c := range list {
		if other, taken := byHash[c.Hash()]; taken {
			return nil, fmt.Errorf("scripts %s and %s have the same text", other.Name, c.Name)
		}
		byHash[c.Hash()] = c
	}
	return byHash, nil
}

package main

import (
	"fmt"
	"slices"
)

// serviceCommandLine is what Windows' service manager starts: `lbagent serve` with the
// flags that `windows-service install` was given behind --. They are judged now, for
// a service that does not start says so to nobody.
func serviceCommandLine(flags []string) ([]string, error) {
	serve := newServeCommand()
	if err := serve.ParseFlags(flags); err != nil {
		return nil, usageError{fmt.Errorf("flags of serve: %w", err)}
	}
	if rest := serve.Flags().Args(); len(rest) > 0 {
		return nil, usageError{fmt.Errorf("flags of serve: unexpected %q", rest)}
	}
	if flags := serve.Flags(); !flags.Changed("device") && !flags.Changed("config") {
		return nil, usageError{fmt.Errorf("flags of serve: %w", errNoDevice)}
	}
	return slices.Concat([]string{"serve"}, flags), nil
}

// serviceLog is the name of a service's log: lbagent.log for serve, and one that names
// the command for the services that run another one.
func serviceLog(arguments []string) string {
	if len(arguments) == 0 || arguments[0] == "serve" {
		return "lbagent.log"
	}
	return "lbagent-" + arguments[0] + ".log"
}

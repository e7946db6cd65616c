package relay

import (
	"bufio"
	"fmt"
)

// ReadGreeting reads the first line of what a relay has printed, for whoever
// has it run without streams. An error of the dialling in the machine is a *DialError.
func ReadGreeting(r *bufio.Reader) error {
	line, err := readLine(r, maxGreeting)
	if err != nil {
		return fmt.Errorf("%w: it printed no line: %w", ErrNoRelay, err)
	}
	_, err = parseGreeting(line)
	return err
}

package guestinit

import (
	"context"
	"fmt"
	"log/slog"
	"os"
)

// Main is the program: "boot" and "init" as said above, or a command of the
// machine's with its arguments. It returns the exit code.
func Main(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "guestinit: this is the first process of a simulated machine; labctl hvsim starts it")
		return 2
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch args[0] {
	case "boot":
		err := boot()
		log.Error("the machine cannot boot", "error", err)
		tell(Event{Stage: StageDown, Error: err.Error()})
		return 1
	case "init":
		if err := runInit(log); err != nil {
			log.Error("the machine's init failed", "error", err)
			tell(Event{Stage: StageDown, Error: err.Error()})
			return 1
		}
		return 0
	}
	reply, err := Ask(context.Background(), Socket, Request{Command: args})
	if err == nil && reply.Error != "" {
		err = fmt.Errorf("%s", reply.Error)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		return max(reply.Code, 1)
	}
	fmt.Print(reply.Text)
	return reply.Code
}

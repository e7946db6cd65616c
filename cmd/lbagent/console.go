package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/peterh/liner"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// newConsoleCommand is the demo's prompt: the client commands, without the program's name.
func newConsoleCommand() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "console",
		Short: "Enter commands at a prompt, with history and completion",
		Long: `Enter commands at a prompt, with history and completion: those of lbagent, without its name,
and help and exit. When standard input is no terminal it is read as a script, whose
first failing line ends it with that line's exit code. # begins a comment.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := console{socket: socket, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr()}
			if in, ok := cmd.InOrStdin().(*os.File); ok && term.IsTerminal(int(in.Fd())) {
				return c.prompt(cmd.Context())
			}
			return c.script(cmd.Context(), cmd.InOrStdin())
		},
	}
	addSocket(cmd, &socket)
	return cmd
}

// console runs lines against one agent.
type console struct {
	socket   string
	out, err io.Writer
}

// errExit ends the console.
var errExit = errors.New("exit")

// prompt reads from the terminal; a line that fails does not end it.
func (c console) prompt(ctx context.Context) error {
	line := liner.NewLiner()
	defer line.Close() // it has nothing to report but the terminal's own state
	line.SetCtrlCAborts(true)
	line.SetTabCompletionStyle(liner.TabPrints)
	line.SetCompleter(c.complete)
	for {
		text, err := line.Prompt("lbagent> ")
		switch {
		case errors.Is(err, liner.ErrPromptAborted):
			continue
		case errors.Is(err, io.EOF):
			_, _ = fmt.Fprintln(c.out)
			return nil
		case err != nil:
			return fmt.Errorf("read the command: %w", err)
		}
		if strings.TrimSpace(text) != "" {
			line.AppendHistory(text)
		}
		if err := c.run(ctx, text); errors.Is(err, errExit) {
			return nil
		} else if err != nil {
			_, _ = fmt.Fprintln(c.err, err)
		}
	}
}

// script runs lines until one fails.
func (c console) script(ctx context.Context, in io.Reader) error {
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		err := c.run(ctx, lines.Text())
		if errors.Is(err, errExit) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the script: %w", err)
	}
	return nil
}

// run runs one line.
func (c console) run(ctx context.Context, line string) error {
	line, _, _ = strings.Cut(line, "#")
	args := strings.Fields(line)
	if len(args) == 0 {
		return nil
	}
	if args[0] == "exit" || args[0] == "quit" {
		return errExit
	}
	root := c.commands()
	root.SetArgs(args)
	return execute(ctx, root)
}

// commands are new for each line: cobra's flags keep their values.
func (c console) commands() *cobra.Command {
	root := &cobra.Command{
		Use:           "",
		Short:         "Commands of the console; exit leaves it",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			return usageError{fmt.Errorf("unknown command %q; help lists them", strings.Join(args, " "))}
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if f := cmd.Flags().Lookup("socket"); f != nil && !f.Changed {
				if err := f.Value.Set(c.socket); err != nil {
					return err
				}
			}
			if err := cmd.ValidateRequiredFlags(); err != nil {
				return err
			}
			started(cmd)
			return nil
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.AddCommand(newClientCommands()...)
	root.AddCommand(newVersionCommand())
	root.AddCommand(&cobra.Command{Use: "exit", Short: "Leave the console", Run: func(*cobra.Command, []string) {}})
	return root
}

// complete returns the lines that continue text by a command or a flag.
func (c console) complete(text string) []string {
	words := strings.Fields(text)
	last := ""
	if len(words) > 0 && !strings.HasSuffix(text, " ") {
		last, words = words[len(words)-1], words[:len(words)-1]
	}
	cmd, _, err := c.commands().Find(words)
	if err != nil {
		return nil
	}
	prefix := strings.TrimSuffix(text, last)
	var lines []string
	for _, next := range continuations(cmd) {
		if strings.HasPrefix(next, last) {
			lines = append(lines, prefix+next)
		}
	}
	return lines
}

// continuations are a command's subcommands, arguments and flags.
func continuations(cmd *cobra.Command) []string {
	var all []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			all = append(all, sub.Name()+" ")
		}
	}
	all = append(all, cmd.ValidArgs...)
	if !cmd.HasSubCommands() {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) { all = append(all, "--"+f.Name+"=") })
	}
	slices.Sort(all)
	return all
}

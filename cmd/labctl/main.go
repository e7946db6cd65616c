// Command labctl brings up a lab for layer-4 load balancing with eBPF, proves
// its packet paths and takes it away again. The work is done by package lab;
// here are flags, wiring and printing.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"l4lab/lab"
	"l4lab/lab/provider"
	"l4lab/lab/state"
	"l4lab/topology"
)

// The exit codes of labctl. `labctl exec` passes on the command's own.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitMissing     = 3
	exitInterrupted = 130
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main with its surroundings as arguments.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A reader that went away (labctl up -o json | head) must not end an up
	// half-way: with a handler, the write fails instead of the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	defer signal.Stop(signals)
	go func() {
		s, ok := <-signals
		if !ok {
			return
		}
		cancel(&interrupted{s})
		// A second signal ends labctl at once; the next down or up cleans.
		signal.Stop(signals)
	}()
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	a.close(ctx)
	if err == nil {
		return 0
	}
	var silent *exitCode
	if cause := context.Cause(ctx); cause != nil && !errors.As(err, &silent) && !errors.Is(err, cause) {
		// What was cut off says so in words of its own: "operation was canceled".
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if !errors.As(err, &silent) {
		fmt.Fprintln(stderr, "labctl: "+err.Error())
	}
	return a.codeOf(err)
}

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal os.Signal }

func (i *interrupted) Error() string { return "interrupted by " + i.signal.String() }

// exitCode ends labctl with a code; what there is to say has been said.
type exitCode struct{ code int }

func (e *exitCode) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// codedError has an exit code of its own.
type codedError struct {
	error
	code int
}

func (e *codedError) Unwrap() error { return e.error }

// usageError is about the words on the command line.
type usageError struct{ error }

func (a *app) codeOf(err error) int {
	var (
		code    *exitCode
		coded   *codedError
		broken  *interrupted
		usage   usageError
		faults  topology.Faults
		missing *provider.MissingError
	)
	switch {
	case errors.As(err, &code):
		return code.code
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &broken):
		return exitInterrupted
	case !a.started, errors.As(err, &usage), errors.As(err, &faults), errors.Is(err, lab.ErrUnknownProvider):
		return exitUsage
	case errors.As(err, &missing), errors.Is(err, os.ErrPermission):
		return exitMissing
	}
	return exitFailure
}

// app is one call of labctl.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	// started says that cobra found the command and took its flags: an error
	// before that is about usage.
	started bool
	name    string
	// programs are those that a flag names.
	programs struct{ linux, windows string }
	// fresh are machines that are made anew.
	fresh provider.Fresh
	// bootLimit is how long a virtual machine may take to boot.
	bootLimit time.Duration
	// guests is what Linux machines of simulated hosts are.
	guests string
	// faults go wrong on simulated hosts.
	faults []string
	// closers end what providers keep open.
	closers []func(context.Context) error
}

// closeLimit bounds taking leave of a host.
const closeLimit = 10 * time.Second

// close ends what providers keep open: shells on hosts, connections to guests. It
// also does after an interrupt.
func (a *app) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	for _, c := range a.closers {
		// What a host does not hear, it ends by itself after its idle time.
		_ = c(ctx)
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "labctl",
		Short:         "A lab for layer-4 load balancing with eBPF",
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRun: func(*cobra.Command, []string) { a.started = true },
	}
	root.PersistentFlags().StringVar(&a.name, "name", "", "the lab's name (default: the topology's, or the one lab there is)")
	root.PersistentFlags().StringVar(&a.programs.linux, "agent", "", "path of the lbagent binary that Linux nodes get (default: beside labctl)")
	root.PersistentFlags().StringVar(&a.programs.windows, "agent-windows", "", "path of the lbagent.exe that Windows nodes get (default: beside labctl)")
	root.AddCommand(a.upCommand(), a.downCommand(), a.statusCommand(), a.execCommand(), a.logsCommand(), a.modeCommand(),
		a.connectionsCommand(), a.testCommand(), a.demoCommand(), a.doctorCommand(), a.topologyCommand(), a.versionCommand(),
		a.snapshotCommand(), a.imageCommand(), a.hvsimCommand(), a.guestCommand(), a.e2eCommand(), a.e2ePartCommand())
	return root
}

// options wires the library.
func (a *app) options(listen func(lab.Event)) (lab.Options, error) {
	dir, err := state.DefaultRoot()
	if err != nil {
		return lab.Options{}, err
	}
	programs, err := a.agents()
	if err != nil {
		return lab.Options{}, err
	}
	return lab.Options{Store: state.NewStore(dir), Drivers: a.drivers(programs), Programs: programs, Listen: listen}, nil
}

// agents returns the paths of lbagent for each operating system: what a flag or
// the environment names, else what lies beside labctl.
func (a *app) agents() (lab.Programs, error) {
	agent, err := beside("lbagent")
	if err != nil {
		return nil, fmt.Errorf("%w; name it with --agent", err)
	}
	return lab.Programs{
		topology.Linux:   cmp.Or(a.programs.linux, os.Getenv("LABCTL_AGENT"), agent),
		topology.Windows: cmp.Or(a.programs.windows, os.Getenv("LABCTL_AGENT_WINDOWS"), agent+".exe"),
	}, nil
}

// existing returns the lab that a command without a topology is about.
func (a *app) existing(listen func(lab.Event)) (*lab.Lab, error) {
	o, err := a.options(listen)
	if err != nil {
		return nil, err
	}
	name := a.name
	if name == "" {
		name = topology.Default().Name
		names, err := lab.All(o)
		if err != nil {
			return nil, err
		}
		switch {
		case slices.Contains(names, name), len(names) == 0:
		case len(names) == 1:
			name = names[0]
		default:
			return nil, usageError{fmt.Errorf("there are several labs; say which with --name: %s", strings.Join(names, ", "))}
		}
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	return lab.Open(name, o), nil
}

// checkName refuses a name that is none, before it becomes part of a path.
func checkName(name string) error {
	t := topology.Default()
	t.Name = name
	if faults := topology.Validate(t); len(faults) > 0 {
		return usageError{fmt.Errorf("--name: %w", faults)}
	}
	return nil
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Fprintln(a.stdout, "labctl "+version()) },
	}
}

// version is what the build says of itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 && !strings.Contains(v, s.Value[:12]) {
			v += " " + s.Value[:12]
		}
	}
	return v + " " + info.GoVersion
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"
)

// Nothing in this file was run on a Windows host. It rests on x/sys' svc, mgr and eventlog,
// and on the names that the installer of eBPF for Windows 0.21 gives its drivers
// (installer/Product.wxs).

const (
	windowsService = "lbagent"
	// ebpfDriver is what must run before anything can be loaded.
	ebpfDriver = "eBPFCore"
	// eventID is the one kind of event; the texts say what happened.
	eventID = 1
	// stopPatience is what the service manager is told that stopping takes at most,
	// and what `stop` waits.
	stopPatience = 10 * time.Second
	// maxLog is how long the log may be before the next start puts it aside.
	maxLog = 16 << 20
)

// ranAsService runs the command line of this process as a service, if the service
// manager started it, and returns its exit code.
func ranAsService() (code int, ran bool) {
	is, err := svc.IsWindowsService()
	if err != nil || !is {
		return 0, false
	}
	s := &service{arguments: os.Args[1:]}
	if err := svc.Run(windowsService, s); err != nil {
		s.event(fmt.Sprintf("the service manager refused the service: %v", err), true)
		return exitFailure, true
	}
	return s.code, true
}

// service is the agent under the service manager.
type service struct {
	arguments []string
	code      int
}

var _ svc.Handler = (*service)(nil)

// Execute runs the command until it ends or the manager stops it. A stop ends the agent
// alone: the data path goes on, as after SIGTERM on Linux. The service is called
// running as soon as it has begun; whether the agent answers, `lbagent status` says. A
// failure is the service's own exit code, upon which the manager's recovery actions
// start it again.
func (s *service) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (ownCode bool, code uint32) {
	const accepted = svc.AcceptStop | svc.AcceptShutdown
	status <- svc.Status{State: svc.StartPending}
	log, err := openServiceLog(serviceLog(s.arguments))
	if err != nil {
		s.event(fmt.Sprintf("no log: %v", err), true)
	} else {
		defer log.Close()
		os.Stdout, os.Stderr = log, log // a service has neither
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan int, 1)
	go func() { done <- run(ctx, s.arguments) }()
	status <- svc.Status{State: svc.Running, Accepts: accepted}
	s.event("started", false)
	for {
		select {
		case s.code = <-done:
			status <- svc.Status{State: svc.StopPending}
			if s.code == 0 {
				s.event("stopped; the data path goes on", false)
				return false, 0
			}
			s.event(fmt.Sprintf("ended with exit code %d; %s says why", s.code, serviceLog(s.arguments)), true)
			return true, uint32(s.code)
		case request := <-requests:
			switch request.Cmd {
			case svc.Interrogate:
				status <- request.CurrentStatus
			case svc.Stop, svc.Shutdown:
				status <- svc.Status{State: svc.StopPending, WaitHint: uint32(stopPatience.Milliseconds())}
				stop()
			}
		}
	}
}

// event writes to the system's event log, as far as there is one.
func (s *service) event(text string, failed bool) {
	events, err := eventlog.Open(windowsService)
	if err != nil {
		return // the log file has it all
	}
	defer events.Close()
	if failed {
		_ = events.Error(eventID, text)
		return
	}
	_ = events.Info(eventID, text)
}

// openServiceLog appends to the log; one that has grown long becomes .old first.
func openServiceLog(name string) (*os.File, error) {
	dir, err := dataDir()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
}

// systemCommands are those that only one system has.
func systemCommands() []*cobra.Command {
	group := &cobra.Command{
		Use:   "windows-service",
		Short: "Run the agent as a Windows service",
		Long: `Install, remove, start and stop the agent as the Windows service "lbagent", which starts with the
machine and again after a failure. Stopping it leaves traffic flowing, as stopping the agent does.
The log is %ProgramData%\lbagent\lbagent.log; starts and ends are in the event log too. Needs an
administrator. ("lbagent service" is about services that are balanced.)`,
	}
	install := &cobra.Command{
		Use:     "install -- FLAGS OF serve",
		Short:   "Install the service, with the flags that serve shall have",
		Example: `  lbagent windows-service install -- --device Ethernet --image C:\lbagent\lb.sys`,
		RunE:    func(_ *cobra.Command, args []string) error { return installService(args) },
	}
	simple := func(use, short string, do func(*mgr.Service) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			if err := withService(do); err != nil {
				return fmt.Errorf("%s service %s: %w", use, windowsService, err)
			}
			return nil
		}}
	}
	group.AddCommand(install,
		simple("remove", "Stop and remove the service", removeService),
		simple("start", "Start the service", func(s *mgr.Service) error { return s.Start() }),
		simple("stop", "Stop the service", stopService))
	return []*cobra.Command{group}
}

// connect opens the service manager, for which one must be an administrator.
func connect() (*mgr.Mgr, error) {
	m, err := mgr.Connect()
	if err != nil {
		return nil, fmt.Errorf("open the service manager (as an administrator?): %w", err)
	}
	return m, nil
}

func withService(do func(*mgr.Service) error) error {
	m, err := connect()
	if err != nil {
		return err
	}
	s, err := m.OpenService(windowsService)
	if err != nil {
		return errors.Join(err, m.Disconnect())
	}
	return errors.Join(do(s), s.Close(), m.Disconnect())
}

func installService(flags []string) error {
	arguments, err := serviceCommandLine(flags)
	if err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	m, err := connect()
	if err != nil {
		return err
	}
	s, err := m.CreateService(windowsService, executable, mgr.Config{
		StartType:    mgr.StartAutomatic,
		DisplayName:  "Layer-4 load balancer",
		Description:  "Keeps the eBPF data path of the load balancer: services, backends, neighbours, health.",
		Dependencies: []string{ebpfDriver},
	}, arguments...)
	if err != nil {
		return errors.Join(fmt.Errorf("create service %s: %w", windowsService, err), m.Disconnect())
	}
	err = configureService(s)
	if err != nil {
		err = errors.Join(err, s.Delete())
	}
	return errors.Join(err, s.Close(), m.Disconnect())
}

func configureService(s *mgr.Service) error {
	const resetAfter = 24 * 60 * 60 // seconds without a failure
	restarts := []mgr.RecoveryAction{
		{Type: mgr.ServiceRestart, Delay: time.Second},
		{Type: mgr.ServiceRestart, Delay: 10 * time.Second},
		{Type: mgr.ServiceRestart, Delay: time.Minute},
	}
	if err := s.SetRecoveryActions(restarts, resetAfter); err != nil {
		return fmt.Errorf("set the recovery actions: %w", err)
	}
	// Else only a crash counts as a failure, not an exit code.
	if err := s.SetRecoveryActionsOnNonCrashFailures(true); err != nil {
		return fmt.Errorf("set when to recover: %w", err)
	}
	_ = eventlog.Remove(windowsService) // what an earlier one left is refused else
	if err := eventlog.InstallAsEventCreate(windowsService, eventlog.Info|eventlog.Error); err != nil {
		return fmt.Errorf("register with the event log: %w", err)
	}
	return nil
}

func removeService(s *mgr.Service) error {
	if err := stopService(s); err != nil {
		return err
	}
	return errors.Join(s.Delete(), eventlog.Remove(windowsService))
}

// stopService stops it and waits until it is; one that does not run is stopped.
func stopService(s *mgr.Service) error {
	status, err := s.Control(svc.Stop)
	if errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) {
		return nil
	}
	for deadline := time.Now().Add(stopPatience); err == nil && status.State != svc.Stopped; status, err = s.Query() {
		if time.Now().After(deadline) {
			return fmt.Errorf("not stopped after %s", stopPatience)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

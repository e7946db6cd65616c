package e2e

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"l4lab/lab"
)

func TestMain(m *testing.M) {
	Become(os.Args[1:])
	os.Exit(m.Run())
}

// config is what the arguments after -args say: flags must be there before the
// testing package reads them.
var config = func() *Config {
	var c Config
	c.Flags(flag.CommandLine)
	// labctl names the programs itself.
	flag.Func("bin", "`folder` of the labctl, lbagent, lbagent.exe and l4lab-firstboot to test (default: they are built)", func(dir string) error {
		c.Programs = Programs{filepath.Join(dir, "labctl"), filepath.Join(dir, "lbagent"), filepath.Join(dir, "lbagent.exe"), filepath.Join(dir, lab.FirstBootName)}
		return nil
	})
	return &c
}()

func TestLabctl(t *testing.T) {
	needRoot(t)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second one ends it at once
	config.Failing, config.Hanging = os.Getenv(failingEnv) != "", os.Getenv(hangingEnv) != ""
	report, err := Run(ctx, *config, os.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Succeeded {
		t.Fail()
	}
}

func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: makes network namespaces")
	}
}

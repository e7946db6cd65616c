package netnsguests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/provider/hyperv/hvsim/netnsguests/guestinit"
)

// agentProgram is the Windows program that has a Linux build here.
const agentProgram = "lbagent.exe"

// execPatience is how long a program may take to end once it is told to.
const execPatience = 2 * time.Second

// HostExec implements hvsim.Guests.
func (g *Guests) HostExec(ctx context.Context, program string, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	real, err := g.standIn(program)
	if err != nil {
		return -1, err
	}
	host, err := g.open(hostNamespace)
	if err != nil {
		return -1, err
	}
	defer host.Close()
	cmd := exec.CommandContext(ctx, real, argv...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Dir = g.options.Dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + g.options.Dir, guestinit.Mark + "=" + g.options.Dir}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = execPatience
	// With cmd.Stdin, Wait would wait for the end of the input, too, which a
	// program need not have read when it ends: a relay whose peer closed.
	input, err := cmd.StdinPipe()
	if err == nil {
		err = host.Do(cmd.Start)
	}
	if err != nil {
		return -1, fmt.Errorf("run %s on the simulated host: %w", filepath.Base(program), err)
	}
	go func() {
		defer input.Close()
		if stdin != nil {
			_, _ = io.Copy(input, stdin) // a program that reads no more has ended, or will say why
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return -1, context.Cause(ctx)
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	}
	return -1, fmt.Errorf("run %s on the simulated host: %w", filepath.Base(program), err)
}

// standIn returns what runs here for a program of Windows'. A host that ran
// whatever Linux programs it is given would be no Windows host.
func (g *Guests) standIn(program string) (string, error) {
	if program == g.options.Program && program != "" {
		return program, nil // the model named the stand-in itself
	}
	if curl, err := hvsim.Curl(); err == nil && program == curl {
		return program, nil
	}
	if !strings.EqualFold(filepath.Base(program), agentProgram) {
		return "", fmt.Errorf("%s cannot be run: this host is simulated and runs %s alone", filepath.Base(program), agentProgram)
	}
	if _, err := os.Stat(program); err != nil {
		return "", err
	}
	head, err := firstBytes(program, 4)
	if err == nil && bytes.Equal(head, []byte("\x7fELF")) {
		return "", fmt.Errorf("%s is a Linux program, which no Windows host runs: push the Windows build", filepath.Base(program))
	}
	if err == nil && g.options.Program == "" {
		err = errors.New("no Linux build of lbagent was given to the simulated host")
	}
	return g.options.Program, err
}

func firstBytes(path string, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, n)
	n, err = io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return head[:n], err
}

// HostDial implements hvsim.Guests: the socket is made on a thread in the
// host's namespace and belongs to it from then on.
func (g *Guests) HostDial(ctx context.Context, network, address string) (net.Conn, error) {
	host, err := g.open(hostNamespace)
	if err != nil {
		return nil, err
	}
	defer host.Close()
	var conn net.Conn
	err = host.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

package guestinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// listen answers requests from now on.
func (m *machine) listen() error {
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: Socket})
	if err == nil {
		err = os.Chmod(Socket, 0o600) // root's own, as systemd's private socket is
	}
	if err != nil {
		return fmt.Errorf("answer at %s: %w", Socket, err)
	}
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				m.log.Error("no more requests are answered", "error", err)
				return
			}
			go m.serve(conn)
		}
	}()
	return nil
}

func (m *machine) serve(conn *net.UnixConn) {
	defer conn.Close()
	packet, rights := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(3*4))
	n, rn, _, _, err := conn.ReadMsgUnix(packet, rights)
	if err != nil || n == 0 {
		return
	}
	files, err := received(rights[:rn])
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var r Request
	if err == nil {
		err = json.Unmarshal(packet[:n], &r)
	}
	var reply Reply
	if err == nil {
		reply, err = m.answer(conn, r, files)
	}
	if err != nil {
		reply.Error = err.Error()
	}
	text, err := json.Marshal(reply)
	if err == nil && len(text) > maxPacket {
		text, err = json.Marshal(Reply{Error: fmt.Sprintf("the answer of %d bytes is too long", len(text))})
	}
	if err == nil {
		_, err = conn.Write(text)
	}
	if err != nil && !errors.Is(err, unix.EPIPE) {
		m.log.Warn("a request got no answer", "error", err)
	}
}

func received(rights []byte) ([]*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, message := range messages {
		fds, err := unix.ParseUnixRights(&message)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}

func (m *machine) answer(conn *net.UnixConn, r Request, files []*os.File) (Reply, error) {
	switch {
	case len(r.Command) > 0:
		text, code, err := m.command(r.Command)
		return Reply{Text: text, Code: code}, err
	case r.Exec != nil:
		return m.exec(conn, *r.Exec, files)
	case r.Start != nil:
		return Reply{}, m.services.startGiven(*r.Start)
	case r.Stop != "":
		return Reply{}, m.services.stop(r.Stop)
	case r.State != "":
		return Reply{Service: m.services.state(r.State)}, nil
	case r.Reboot, r.Down:
		m.wishDown(r.Reboot)
		return Reply{}, nil
	}
	return Reply{}, errors.New("an empty request")
}

// exec runs a program with the descriptors that came along, until it ends or
// the connection is closed.
func (m *machine) exec(conn *net.UnixConn, x Exec, files []*os.File) (Reply, error) {
	if len(files) != 3 || len(x.Argv) == 0 {
		return Reply{}, errors.New("a program needs its three files and its name")
	}
	cmd := exec.Command(x.Argv[0], x.Argv[1:]...)
	cmd.Env = append(os.Environ(), x.Env...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = x.Dir, files[0], files[1], files[2]
	wait, err := m.children.start(cmd)
	if err != nil {
		return Reply{NotFound: errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound)}, err
	}
	// The init's own copies would keep the streams open beyond the program's end.
	for _, f := range files {
		f.Close()
	}
	done := make(chan struct{})
	go func() {
		_, _ = conn.Read(make([]byte, 1)) // nothing more is said: it is closed, or we are done
		select {
		case <-done:
		default:
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		}
	}()
	err = wait()
	close(done)
	return Reply{Code: exitCode(err)}, nil
}

// exitCode is a shell's: 128 and the signal's number for what a signal ended.
func exitCode(err error) int {
	var exit *exec.ExitError
	if err == nil {
		return 0
	}
	if !errors.As(err, &exit) {
		return 1
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

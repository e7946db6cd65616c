//go:build unix

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// maxSocketPath is sun_path without its final NUL (unix(7)).
const maxSocketPath = 107

// listenPrivate binds with mode 0600 from the first moment: Linux gives the
// socket file the mode of the socket's own inode, cut by the umask
// (net/unix/af_unix.c, unix_bind_bsd), so it is set before bind. The umask
// itself is the whole process's and cannot be changed safely.
func listenPrivate(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path has %d bytes, a unix socket's at most %d: choose a shorter --socket",
			len(path), maxSocketPath)
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmodErr error
		if err := raw.Control(func(fd uintptr) { chmodErr = syscall.Fchmod(int(fd), 0o600) }); err != nil {
			return err
		}
		return chmodErr
	}}
	return config.Listen(context.Background(), "unix", path)
}

// findGroup returns a group's number, nobody for "".
func findGroup(name string) (int, error) {
	if name == "" {
		return nobody, nil
	}
	if gid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return nobody, fmt.Errorf("%w: %s", ErrNoGroup, name)
	}
	return strconv.Atoi(g.Gid)
}

// giveTo lets a group open the socket. It is the group's before it may: in between
// it is nobody's but this user's.
func giveTo(path string, gid int) error {
	if gid == nobody {
		return nil
	}
	if err := os.Lchown(path, -1, gid); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}

func dialLocal(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

func isSocket(info os.FileInfo) bool { return info.Mode()&os.ModeSocket != 0 }

// fileLock is a lock file that is held by flock(2): the kernel frees it when
// its holder dies, however it dies.
type fileLock struct {
	file *os.File
	path string
}

// lockFile takes the lock or says who has it.
func lockFile(path string) (*fileLock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			pid, _ := io.ReadAll(io.LimitReader(f, 20))
			_ = f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, running(string(pid))
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !stillThere(f, path) { // its last holder removed it while we waited to open it
			_ = f.Close()
			continue
		}
		if err := writePID(f); err != nil {
			_ = f.Close()
			return nil, err
		}
		return &fileLock{file: f, path: path}, nil
	}
}

func stillThere(f *os.File, path string) bool {
	held, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(held, named)
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("empty %s: %w", f.Name(), err)
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		return fmt.Errorf("write the pid to %s: %w", f.Name(), err)
	}
	return nil
}

// release removes the file while the lock is still held, so that nobody's
// lock but ours can go with it.
func (l *fileLock) release() error { return errors.Join(os.Remove(l.path), l.file.Close()) }

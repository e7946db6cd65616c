package apply

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Machine is what a seed is applied to.
type Machine struct {
	// Root is the folder with the machine's file system: "/" in the machine itself.
	Root string
	// Log gets each change.
	Log *slog.Logger
	// SetName is sethostname(2).
	SetName func(name []byte) error
	// Chown is lchown(2).
	Chown func(path string, uid, gid int) error
}

// Here is the machine that this process runs on. It must run as root.
func Here(log *slog.Logger) Machine {
	return Machine{Root: "/", Log: log, SetName: unix.Sethostname, Chown: os.Lchown}
}

// File is a file of root's.
type File struct {
	// Path is absolute, within the machine. A link that is there is replaced,
	// not followed.
	Path string
	Data []byte
	Mode fs.FileMode
}

// WriteFile writes a file, and the folders that it lacks with mode 0755.
func (m Machine) WriteFile(f File) error {
	return m.write(f, owner{os.Geteuid(), os.Getegid()})
}

// owner are the numbers of a file's user and group.
type owner struct{ uid, gid int }

// path is where a file of the machine lies for this process.
func (m Machine) path(path string) string { return filepath.Join(m.Root, path) }

// write brings a file about as it should be. The draft beside it has one name,
// so that what a killed call left is taken away by the next.
func (m Machine) write(f File, of owner) error {
	if !filepath.IsAbs(f.Path) {
		return fmt.Errorf("write the file %q: the path is not absolute", f.Path)
	}
	path := m.path(f.Path)
	if sameFile(path, f, of) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	draft := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	err := m.writeDraft(draft, f, of)
	if err == nil {
		err = os.Rename(draft, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path, errors.Join(err, removed(draft)))
	}
	m.Log.Info("wrote "+f.Path, "bytes", len(f.Data), "mode", fmt.Sprintf("%04o", f.Mode.Perm()))
	return nil
}

func (m Machine) writeDraft(draft string, f File, of owner) error {
	out, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(f.Data)
	if err == nil && of != (owner{os.Geteuid(), os.Getegid()}) {
		err = m.Chown(draft, of.uid, of.gid)
	}
	if err == nil {
		err = out.Chmod(f.Mode) // after chown(2), which takes away set-user-ID bits
	}
	return errors.Join(err, out.Close())
}

func removed(draft string) error {
	if err := os.Remove(draft); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sameFile says whether a file is as it should be already.
func sameFile(path string, f File, of owner) bool {
	st, err := os.Lstat(path)
	if err != nil || st.Mode() != f.Mode.Perm() || st.Size() != int64(len(f.Data)) || ownerOf(st) != of {
		return false
	}
	data, err := os.ReadFile(path)
	return err == nil && bytes.Equal(data, f.Data)
}

func ownerOf(st fs.FileInfo) owner {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return owner{int(s.Uid), int(s.Gid)}
	}
	return owner{}
}

// edit changes a file that is there, which keeps its mode and owner.
func (m Machine) edit(path string, change func(text string) string) error {
	st, err := os.Lstat(m.path(path))
	if err != nil {
		return fmt.Errorf("change %s: %w", path, err)
	}
	before, err := os.ReadFile(m.path(path))
	if err != nil {
		return fmt.Errorf("change %s: %w", path, err)
	}
	after := change(string(before))
	if after == string(before) {
		return nil
	}
	return m.write(File{Path: path, Data: []byte(after), Mode: st.Mode().Perm()}, ownerOf(st))
}

// SetHostname names the machine, now and after each boot.
func (m Machine) SetHostname(name string) error {
	if name == "" || strings.ContainsAny(name, " \t\n/") {
		return fmt.Errorf("set the hostname: %q is none", name)
	}
	if err := m.SetName([]byte(name)); err != nil {
		return fmt.Errorf("set the hostname %q: %w", name, err)
	}
	return errors.Join(
		m.WriteFile(File{Path: "/etc/hostname", Data: []byte(name + "\n"), Mode: 0o644}),
		m.WriteFile(File{Path: "/etc/hosts", Data: []byte("127.0.0.1 localhost\n127.0.1.1 " + name + "\n"), Mode: 0o644}))
}

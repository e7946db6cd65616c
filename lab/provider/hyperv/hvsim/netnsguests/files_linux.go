package netnsguests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/role/windows/guestscripts"
)

// writeFile writes a file of drive C, whole or not at all.
func (m *guest) writeFile(path string, data []byte) error {
	real, err := m.real(path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(real+".part", data, 0o600); err != nil {
		os.Remove(real + ".part")
		return err
	}
	return os.Rename(real+".part", real)
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

func fileProbe(_ context.Context, m *guest, _ *windows, p guestscripts.FileParams) (guestscripts.FileProbeResult, error) {
	var r guestscripts.FileProbeResult
	real, err := m.real(p.Path)
	if err != nil || !isFile(real) {
		return r, err
	}
	f, err := os.Open(real)
	if err != nil {
		return r, err
	}
	defer f.Close()
	h := sha256.New()
	if r.Bytes, err = io.Copy(h, f); err != nil {
		return r, err
	}
	r.Exists, r.SHA256 = true, hex.EncodeToString(h.Sum(nil))
	return r, nil
}

func fileRead(_ context.Context, m *guest, _ *windows, p guestscripts.FileReadParams) (guestscripts.FileReadResult, error) {
	var r guestscripts.FileReadResult
	real, err := m.real(p.Path)
	if err != nil {
		return r, err
	}
	if !isFile(real) {
		return r, failure(guestscripts.NotFound, p.Path, "there is no such file")
	}
	f, err := os.Open(real)
	if err != nil {
		return r, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return r, err
	}
	r.Bytes = st.Size()
	data := make([]byte, max(0, min(p.Bytes, r.Bytes-p.Offset)))
	n, err := io.ReadFull(io.NewSectionReader(f, p.Offset, int64(len(data))), data)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return r, err
	}
	r.Data = base64.StdEncoding.EncodeToString(data[:n])
	return r, nil
}

func fileWrite(_ context.Context, m *guest, w *windows, p guestscripts.FileWriteParams) (guestscripts.Changed, error) {
	data, err := base64.StdEncoding.DecodeString(p.Data)
	if err != nil {
		return guestscripts.Changed{}, fmt.Errorf("the data is no base64: %w", err)
	}
	real, err := m.real(p.Path)
	if err != nil {
		return guestscripts.Changed{}, err
	}
	if now, err := os.ReadFile(real); err == nil && bytes.Equal(now, data) {
		return guestscripts.Changed{What: []string{}}, nil
	}
	if err := m.free(w, p.Path); err != nil {
		return guestscripts.Changed{}, err
	}
	if err := m.writeFile(p.Path, data); err != nil {
		return guestscripts.Changed{}, err
	}
	return guestscripts.Changed{Changed: true, What: []string{"file"}}, nil
}

func fileRemove(_ context.Context, m *guest, w *windows, p guestscripts.FileParams) (guestscripts.Changed, error) {
	real, err := m.real(p.Path)
	if err != nil {
		return guestscripts.Changed{}, err
	}
	if _, err := os.Lstat(real); errors.Is(err, fs.ErrNotExist) {
		return guestscripts.Changed{What: []string{}}, nil
	}
	if err := m.free(w, p.Path); err != nil {
		return guestscripts.Changed{}, err
	}
	if err := os.Remove(real); err != nil {
		return guestscripts.Changed{}, err
	}
	return guestscripts.Changed{Changed: true, What: []string{"file removed"}}, nil
}

// free refuses to touch a program that a service runs, as Windows does.
func (m *guest) free(w *windows, path string) error {
	real, err := m.real(path)
	if err != nil {
		return err
	}
	for name, s := range w.Services {
		program, err := m.real(s.Program)
		if err == nil && program == real && m.serviceState(context.Background(), name).PID != 0 {
			return failure(guestscripts.InUse, path, "the process cannot access the file because it is being used by another process (service %s)", name)
		}
	}
	return nil
}

// CopyIn implements hvsim.Guests.
func (g *Guests) CopyIn(_ context.Context, id string, as hvsim.Login, from, to string) error {
	m, w, err := g.logOn(id, as)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	real, err := m.real(to)
	if err == nil {
		err = m.free(w, to)
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(real), 0o755)
	}
	if err == nil {
		err = copyFile(from, real)
	}
	if err != nil {
		return fmt.Errorf("copy to %s of machine %s: %w", to, m.machine.Name, err)
	}
	return nil
}

// CopyOut implements hvsim.Guests.
func (g *Guests) CopyOut(_ context.Context, id string, as hvsim.Login, from, to string) error {
	m, _, err := g.logOn(id, as)
	if err != nil {
		return err
	}
	real, err := m.real(from)
	if err == nil {
		err = copyFile(real, to)
	}
	if err != nil {
		return fmt.Errorf("copy %s from machine %s: %w", from, m.machine.Name, err)
	}
	return nil
}

// copyFile makes a file a copy of another, whole or not at all.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), ".copy-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), to)
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return strings.ToLower(hex.EncodeToString(h.Sum(nil))), nil
}

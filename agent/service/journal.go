package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// journal is the state file: the state as it was once, and behind it a record of
// each change since. So a change costs what it is long, not what all services are, and is
// on the disk before anybody is told of it. When the records have become much longer than the
// state, the file is written anew, and so it is at each start and end.
type journal struct {
	// path is "" where the state is kept in memory only.
	path string
	// file is open for appending, nil before the first write and after a failed one.
	file *os.File
	// size is the file's, begun what it was without records.
	size, begun int64
}

// minRecords is how many bytes of records are always let be.
const minRecords = 1 << 20

// open says whether records can be appended: to the file that is at the path, and
// with an end to it.
func (j *journal) open() bool {
	if j.file == nil || j.size-j.begun > max(minRecords, 4*j.begun) {
		return false
	}
	there, err := os.Stat(j.path)
	if err != nil {
		return false
	}
	ours, err := j.file.Stat()
	return err == nil && os.SameFile(there, ours)
}

// begin writes the file so that at any moment it is the old or the new one,
// whole, also after a crash of the machine.
func (j *journal) begin(state any) (err error) {
	if j.path == "" {
		return nil
	}
	text, err := json.MarshalIndent(state, "", " ")
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	// Windows replaces no file that is open.
	if err := j.close(); err != nil {
		return err
	}
	if err := replaceFile(j.path, append(text, '\n')); err != nil {
		return fmt.Errorf("write the state file %s: %w", j.path, err)
	}
	if j.file, err = os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return fmt.Errorf("open the state file: %w", err)
	}
	j.begun = int64(len(text)) + 1
	j.size = j.begun
	return nil
}

// append writes a record; one that fails leaves no part of itself.
func (j *journal) append(r record, sync bool) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a change of the state: %w", err)
	}
	_, err = j.file.Write(append(text, '\n'))
	if err == nil && sync {
		err = j.file.Sync()
	}
	if err != nil {
		err = errors.Join(err, j.file.Truncate(j.size), j.close())
		return fmt.Errorf("write the state file %s: %w", j.path, err)
	}
	j.size += int64(len(text)) + 1
	return nil
}

// close lets go of the file; the next write makes it anew.
func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	file := j.file
	j.file = nil
	if err := file.Close(); err != nil {
		return fmt.Errorf("close the state file %s: %w", j.path, err)
	}
	return nil
}

func replaceFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), temporary(path)+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(content); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder makes a new name in a folder outlive a crash. Windows has no such call, and
// its file systems log their names.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

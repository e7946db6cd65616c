package service

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"l4lab/agent/api"
)

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestChangeIsSavedWithoutWritingAllServicesAgain(t *testing.T) {
	file := stateFile(t)
	m := open(t, newFakeStore(t), file)
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
	mustPut(t, m, svc(2, "40.1.1.2:80", "20.1.1.20:80"))
	before := readFile(t, file)
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.11:80"))
	if err := m.Delete(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if err := m.SetMode(t.Context(), "snat", 0); err != nil {
		t.Fatal(err)
	}
	after := readFile(t, file)
	if !strings.HasPrefix(after, before) || strings.Contains(after[len(before):], `"backends":[{"address":"20.1.1.20:80"}]`) {
		t.Errorf("the file was\n%s and is\n%s", before, after)
	}
	state, found, err := loadState(file) // as after kill -9
	if err != nil || !found || state.mode != "snat" || !reflect.DeepEqual(state.services, m.desired.services) {
		t.Errorf("read back %+v, %v; desired is %+v", state, err, m.desired.services)
	}
	if state.nextBackend != m.backendIDs.next || state.nextSlot != m.slots.next || !reflect.DeepEqual(state.formerSlots, m.slots.former) {
		t.Errorf("numbers read back: %+v; they are %+v %+v", state, m.backendIDs.former, m.slots.former)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if text := readFile(t, file); len(text) >= len(after) || strings.Count(text, "\n}") != 1 {
		t.Errorf("at the end the file is\n%s", text)
	}
	if again, _, err := loadState(file); err != nil || !reflect.DeepEqual(again.services, state.services) || again.mode != "snat" {
		t.Errorf("read back %+v, %v", again, err)
	}
}

func TestRecordThatWasCutOffNeverHappened(t *testing.T) {
	for _, c := range []struct{ name, tail string }{
		{"nothing", ""},
		{"half a record", `{"mode":"snat","put":[{"id":2,"fron`},
		{"a record without its end", `{"mode":"snat"`},
		{"zeros, as a crashed machine leaves them", "\x00\x00\x00\x00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file, store := stateFile(t), newFakeStore(t)
			one := svc(1, "40.1.1.1:80", "20.1.1.10:80")
			m := open(t, store, file)
			mustPut(t, m, one)
			if err := os.WriteFile(file, []byte(readFile(t, file)+c.tail), 0o600); err != nil {
				t.Fatal(err)
			}
			m = open(t, store, file)
			wantMaps(t, store, one)
			if m.desired.mode != "dsr" {
				t.Errorf("the mode is %s", m.desired.mode)
			}
			two := svc(2, "40.1.1.2:80", "20.1.1.20:80")
			mustPut(t, m, two) // what was cut off is not in its way
			if saved := savedServices(t, file); len(saved) != 2 || !equal(saved[2], two) {
				t.Errorf("the file has %+v", saved)
			}
		})
	}
}

func TestStateFileThatSomebodyTookAwayIsWrittenAgain(t *testing.T) {
	for _, c := range []struct {
		name string
		away func(file string) error
	}{
		{"removed", os.Remove},
		{"moved", func(file string) error { return os.Rename(file, file+".bak") }},
		{"replaced", func(file string) error {
			if err := os.WriteFile(file+".new", []byte("{}"), 0o600); err != nil {
				return err
			}
			return os.Rename(file+".new", file)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := stateFile(t)
			m := open(t, newFakeStore(t), file)
			mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
			if err := c.away(file); err != nil {
				t.Fatal(err)
			}
			mustPut(t, m, svc(2, "40.1.1.2:80", "20.1.1.20:80"))
			if saved := savedServices(t, file); len(saved) != 2 {
				t.Errorf("the file has %+v", saved)
			}
		})
	}
}

// A record that could not be written whole must not be in the way of the next, nor come to
// life at the next start.
func TestRecordThatCannotBeWrittenLeavesNoTrace(t *testing.T) {
	file, store := stateFile(t), newFakeStore(t)
	m := open(t, store, file)
	one := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	mustPut(t, m, one)
	whole := m.journal.file
	readOnly, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	m.journal.file = readOnly // its writes fail
	if _, err := m.Put(t.Context(), svc(2, "40.1.1.2:80", "20.1.1.20:80")); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
	_ = whole.Close()
	wantMaps(t, store, one)
	if saved := savedServices(t, file); len(saved) != 1 {
		t.Errorf("the file has %+v", saved)
	}
	mustPut(t, m, svc(2, "40.1.1.2:80", "20.1.1.20:80"))
	if saved := savedServices(t, file); len(saved) != 2 {
		t.Errorf("the file has %+v", saved)
	}
}

func TestFileIsWrittenAnewWhenItsRecordsHaveGrown(t *testing.T) {
	file := stateFile(t)
	store := newFakeStore(t)
	store.limits.Backends = 1 << 15
	m := open(t, store, file)
	s := svc(1, "40.1.1.1:80")
	s.TableSize = 16381
	s.Backends = many(8000) // about 300 KiB a record
	mustPut(t, m, s)
	largest := 0
	for i := range 12 {
		s.Backends = append([]api.Backend(nil), s.Backends...)
		s.Backends[0] = weighted(uint16(i+2), s.Backends[0].Address.String())
		mustPut(t, m, s)
		largest = max(largest, len(readFile(t, file)))
	}
	if most := int(6 * m.journal.begun); largest > most || largest < int(3*m.journal.begun) {
		t.Errorf("it grew to %d bytes, from %d", largest, m.journal.begun)
	}
	if saved := savedServices(t, file); !equal(saved[1], complete(s, "dsr")) {
		t.Error("what was saved is not what was put")
	}
}

// An agent of before left this.
func TestStateFileOfVersion1IsRead(t *testing.T) {
	file, store := stateFile(t), newFakeStore(t)
	text := `{
  "version": 1,
  "mode": "snat",
  "nextBackend": 5,
  "nextSlot": 2,
  "formerSlots": [{"number": 1, "owner": {"id": 1, "frontend": "40.1.1.1:80", "protocol": 6}}],
  "formerBackends": [{"number": 3, "owner": {"slot": 1, "address": "20.1.1.30:80", "protocol": 6}}],
  "services": [
    {"id": 1, "frontend": "40.1.1.1:80", "protocol": "tcp", "mode": "dsr", "tableSize": 251, "backends": ["20.1.1.10:80", "20.1.1.20:80"]}
  ]
}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m := open(t, store, file)
	want := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
	wantMaps(t, store, want)
	if s := mustService(t, m, 1); !equal(s, want) || s.Revision != 1 {
		t.Errorf("got %+v", s)
	}
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.30:80"))
	if id := m.Numbers()[0].Backends[at("20.1.1.30:80").Address]; id != 3 {
		t.Errorf("the backend that comes back has id %d", id)
	}
	if text := readFile(t, file); !strings.Contains(text, `"version": 2`) {
		t.Errorf("the file is\n%s", text)
	}
}

func TestStateFileIsForItsOwnerAlone(t *testing.T) {
	file := stateFile(t)
	m := open(t, newFakeStore(t), file)
	for i := range 3 { // written, and appended to
		mustPut(t, m, svc(1, "40.1.1.1:80", []string{"20.1.1.10:80", "20.1.1.11:80", "20.1.1.12:80"}[i]))
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
	files, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(files) != 1 {
		t.Errorf("beside it are %v, %v", files, err)
	}
}

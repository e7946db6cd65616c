package chaos

import (
	"fmt"
	"slices"
	"testing"
)

// lab is the model of a lab with four backends and one to spare, two services and a spare one.
func lab() Model {
	return New([]string{"be1", "be2", "be3", "be4"}, []string{"be5"},
		[]Service{{ID: 1, Mode: "dsr"}, {ID: 2, Mode: "snat"}}, []Service{{ID: 3, Mode: "dsr"}})
}

func walked(seed uint64, n int) (list []string) {
	w := NewWalk(seed, lab())
	for range n {
		list = append(list, w.Next().String())
	}
	return list
}

func TestASeedGivesTheSameWalkAgain(t *testing.T) {
	first, again := walked(7, 100), walked(7, 100)
	if !slices.Equal(first, again) {
		t.Error("two walks of one seed differ")
	}
	if !slices.Equal(walked(7, 50), first[:50]) {
		t.Error("a shorter walk is no beginning of the longer one")
	}
	if slices.Equal(first, walked(8, 100)) {
		t.Error("two seeds give one walk")
	}
}

// The walk must not change for those who were told a seed, unless somebody means it to.
func TestTheWalkOfSeedOneBeginsSo(t *testing.T) {
	want := []string{
		"kill the web server be2",
		"drain be3 of service 2",
		"remove a backend be4",
		"impair be2: port down",
		"kill the node be1",
		"kill -9 labctl after 2 events, while it is to add a backend be4",
		"kill -9 the agent",
		"kill the web server be1",
	}
	if got := walked(1, len(want)); !slices.Equal(got, want) {
		t.Errorf("the walk of seed 1 is another:\ngot  %q\nwant %q", got, want)
	}
}

func TestEveryKindOfActionHappens(t *testing.T) {
	seen, faults := map[Kind]bool{}, map[Fault]bool{}
	for seed := range uint64(5) {
		w := NewWalk(seed, lab())
		for range 300 {
			a := w.Next()
			seen[a.Kind], faults[a.Fault] = true, true
		}
	}
	for _, c := range chances {
		if !seen[c.kind] {
			t.Errorf("1500 actions, and none is %q", c.kind)
		}
	}
	for _, f := range Faults() {
		if !faults[f] {
			t.Errorf("1500 actions, and none is about %q", f)
		}
	}
}

func TestThereIsAlwaysSomebodyWhoAnswers(t *testing.T) {
	for seed := range uint64(10) {
		w := NewWalk(seed, lab())
		for step := range 100 {
			a := w.Next()
			m := w.Model()
			where := fmt.Sprintf("seed %d, step %d, %s", seed, step, a)
			for _, s := range m.Services {
				if s.InLab && len(m.Must(s)) == 0 {
					t.Fatalf("%s: nobody answers for service %d", where, s.ID)
				}
				for _, name := range m.Must(s) {
					if !slices.Contains(s.Table, name) {
						t.Fatalf("%s: %s must answer, and may not", where, name)
					}
				}
			}
			if m.Troubled() > maxTroubled {
				t.Fatalf("%s: %d backends are in trouble", where, m.Troubled())
			}
		}
	}
}

func TestWalkingDoesNotChangeTheModelsBefore(t *testing.T) {
	w := NewWalk(3, lab())
	for range 100 {
		before := w.Model()
		text := fmt.Sprintf("%+v", before)
		w.Next()
		if now := fmt.Sprintf("%+v", before); now != text {
			t.Fatalf("the model before an action changed with it:\nwas %s\nis  %s", text, now)
		}
	}
}

package demo

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"l4lab/lab/probe"
	"l4lab/topology"
)

// walkThrough walks through a fake lab that was spoiled; its time is not ours.
func walkThrough(t *testing.T, spoil func(*fakeLab), o Options, look func(*fakeLab, Record, error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLab()
		defer f.close()
		if spoil != nil {
			spoil(f)
		}
		r, _, err := Run(t.Context(), f, topology.Default(), o)
		look(f, r, err)
	})
}

// crossesOf are the keys of the steps with a cross.
func crossesOf(r Record) (keys []string) {
	for _, s := range r.Steps {
		if !s.OK() {
			keys = append(keys, s.Key)
		}
	}
	return keys
}

func TestAWalkThroughAWholeLabHasNoCross(t *testing.T) {
	walkThrough(t, nil, Options{}, func(f *fakeLab, r Record, err error) {
		if err != nil || r.Crosses() > 0 {
			t.Fatalf("%v; crosses at %v: %+v", err, crossesOf(r), r.Steps)
		}
		var keys []string
		for i, s := range r.Steps {
			keys = append(keys, s.Key)
			if s.Number != i+1 || s.Here == "" || len(s.Checks) == 0 {
				t.Errorf("step %d %s: number %d, here %q, %d checks", i+1, s.Key, s.Number, s.Here, len(s.Checks))
			}
		}
		want := []string{
			"topology", "agent", "service", "neighbor", "page", "dumpstate-page", "refresh", "dumpstate-refresh", "snat-packets",
			"mode-dsr", "refresh-dsr", "dumpstate-dsr", "dsr-packets", "mode-load", "kill", "drain", "proof", "figures",
		}
		if !slices.Equal(keys, want) {
			t.Errorf("steps %v, want %v", keys, want)
		}
		const update = "lbagent service update --frontend=40.1.1.1:80 --backends=20.1.1.10:80,20.1.1.20:80,20.1.1.30:80,20.1.1.40:80 --id=1"
		for _, command := range []string{update, "lbagent mode update dsr", "lbagent neighbor update 20.1.1.10"} {
			if !slices.Contains(f.calls, command) {
				t.Errorf("%q was not typed: %q", command, f.calls)
			}
		}
		if f.checked || f.drained != "" || len(f.dead) > 0 {
			t.Error("the service is not left as it was")
		}
		checkPassages(t, r)
	})
}

func checkPassages(t *testing.T, r Record) {
	t.Helper()
	if len(r.Passages) != 2 || r.Passages[0].Mode != topology.SNAT || r.Passages[1].Mode != topology.DSR {
		t.Fatalf("%d passages", len(r.Passages))
	}
	for _, p := range r.Passages {
		if len(p.Hops) != 4 || len(p.Pcapng) == 0 || p.Backend != "be1" {
			t.Errorf("%s: %d hops, %d bytes of pcapng, backend %s", p.Mode, len(p.Hops), len(p.Pcapng), p.Backend)
		}
		for _, h := range p.Hops {
			if len(h.Packets) == 0 {
				t.Errorf("%s: nothing at %s", p.Mode, h.Place)
			}
		}
	}
}

func TestWhatIsWrongIsACrossAtItsStep(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*fakeLab)
		steps []string // at least these
		text  string
	}{
		{"replies that cross the balancer in DSR", func(f *fakeLab) { f.leaks = true }, []string{"dsr-packets"}, "requests alone cross"},
		{"captures that never keep up", func(f *fakeLab) { f.loses = 1 << 20 }, []string{"snat-packets", "dsr-packets"}, "lost frames"},
		{"a backend that refuses from the beginning", func(f *fakeLab) { f.dead["be3"] = true }, []string{"mode-load", "figures"}, "refused"},
		{"an agent that does not answer", func(f *fakeLab) { f.silent = true }, []string{"agent", "dumpstate-page"}, "nobody listens"},
		{
			"a path that the packets refute",
			func(f *fakeLab) { f.report.Checks[0].Status = probe.Fail }, []string{"proof"}, "replies go straight",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			walkThrough(t, c.spoil, Options{}, func(_ *fakeLab, r Record, err error) {
				if !errors.Is(err, ErrCross) {
					t.Errorf("got %v, want %v", err, ErrCross)
				}
				for _, key := range c.steps {
					i := slices.IndexFunc(r.Steps, func(s Step) bool { return s.Key == key })
					if i < 0 || r.Steps[i].OK() {
						t.Errorf("no cross at %s; there are some at %v", key, crossesOf(r))
						continue
					}
					if !slices.ContainsFunc(r.Steps[i].Checks, func(c2 Check) bool { return !c2.OK && strings.Contains(c2.Text, c.text) }) {
						t.Errorf("%s does not say %q: %+v", key, c.text, r.Steps[i].Checks)
					}
				}
				if last := r.Steps[len(r.Steps)-1].Key; last != "figures" {
					t.Errorf("the walk ended at %s", last)
				}
			})
		})
	}
}

func TestCapturesThatLostFramesAreMadeAgain(t *testing.T) {
	walkThrough(t, func(f *fakeLab) { f.loses = 1 }, Options{}, func(_ *fakeLab, r Record, err error) {
		if err != nil {
			t.Errorf("%v at %v", err, crossesOf(r))
		}
	})
}

func TestWhatCannotComeUpIsRefusedBeforeTheFirstStep(t *testing.T) {
	impossible := errors.New("unknown provider")
	told := &strings.Builder{}
	o := Options{Observer: NewNarration(told, Look{})}
	walkThrough(t, func(f *fakeLab) { f.impossible = impossible }, o, func(_ *fakeLab, _ Record, err error) {
		if !errors.Is(err, impossible) || told.Len() > 0 {
			t.Errorf("%v, and told %q", err, told)
		}
	})
}

func TestALabThatDoesNotComeUpIsNoWalk(t *testing.T) {
	broken := errors.New("no room")
	walkThrough(t, func(f *fakeLab) { f.upErr = broken }, Options{}, func(_ *fakeLab, r Record, err error) {
		if !errors.Is(err, broken) || errors.Is(err, ErrCross) || len(r.Steps) > 0 {
			t.Errorf("%v after %d steps", err, len(r.Steps))
		}
	})
}

func TestALabThatIsUpAndCannotBeLookedAtIsStillMade(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLab()
		defer f.close()
		f.upErr, f.then = nil, cancel
		if _, made, err := Run(ctx, f, topology.Default(), Options{}); !made || !errors.Is(err, context.Canceled) {
			t.Errorf("made %v, %v", made, err)
		}
	})
}

func TestWhoWaitsBetweenStepsCanEndTheWalk(t *testing.T) {
	enough := errors.New("enough")
	var asked []int
	o := Options{Between: func(_ context.Context, next Step) error {
		if asked = append(asked, next.Number); next.Number == 4 {
			return enough
		}
		return nil
	}}
	walkThrough(t, nil, o, func(_ *fakeLab, r Record, err error) {
		if !errors.Is(err, enough) || len(r.Steps) != 3 || !slices.Equal(asked, []int{2, 3, 4}) {
			t.Errorf("%v after %d steps, asked before %v", err, len(r.Steps), asked)
		}
	})
}

func TestATopologyWithoutAPageIsRefused(t *testing.T) {
	without := topology.Default()
	without.Services[0].Protocol = topology.UDP
	if _, made, err := Run(t.Context(), nil, without, Options{}); !errors.Is(err, ErrNoPage) || made {
		t.Errorf("got %v, made %v", err, made)
	}
}

// fakeBrowser shows what the lab's pages say.
type fakeBrowser struct {
	pictures, opened, closed int
	names                    []string
}

func (b *fakeBrowser) Version() string { return "Browser 1" }

func (b *fakeBrowser) Open(context.Context, string) (Page, error) {
	b.opened++
	return b, nil
}

func (b *fakeBrowser) Reload(context.Context) error {
	b.names = b.names[1:]
	return nil
}

func (b *fakeBrowser) Screenshot(context.Context) (Image, error) {
	b.pictures++
	return Image{PNG: []byte{1}, Alt: "the page of " + b.names[0], Width: 8, Height: 6}, nil
}

func (b *fakeBrowser) Text(context.Context) (string, error) {
	return b.names[0] + "\n" + topology.Default().Nodes[b.names[0]].Address.String() + "\n", nil
}

func (b *fakeBrowser) Close() error { b.closed++; return nil }

func TestABrowserShowsThePageBeforeAndAfterARefresh(t *testing.T) {
	b := &fakeBrowser{names: []string{"be1", "be1", "be2", "be2", "be4"}}
	walkThrough(t, nil, Options{Browser: b}, func(_ *fakeLab, r Record, _ error) {
		if b.pictures != 3 || b.opened != 1 || b.closed != 1 || r.Host.Browser != "Browser 1" {
			t.Errorf("%+v, host %+v", b, r.Host)
		}
		var shown []string
		for _, s := range r.Steps {
			for _, block := range s.Blocks {
				if block.Image != nil {
					shown = append(shown, s.Key+": "+block.Image.Alt)
				}
			}
		}
		if want := []string{"page: the page of be1", "refresh: the page of be2", "refresh-dsr: the page of be4"}; !slices.Equal(shown, want) {
			t.Errorf("pictures %q, want %q", shown, want)
		}
	})
}

package lab_test

import "testing"

func TestABackendsPageGoesAndComesBackAsItWas(t *testing.T) {
	s := newSite(t)
	s.up(t)
	page := func() string { return s.Machines["l4lb/be2"].Page }
	was, remembered := page(), s.remembered(t)
	if was == "" {
		t.Fatal("be2 has no page")
	}
	if err := s.lab().StopPage(t.Context(), "be2"); err != nil || page() != "" {
		t.Errorf("stopped: %v, page %q", err, page())
	}
	if err := s.lab().StartPage(t.Context(), "be2"); err != nil || page() != was {
		t.Errorf("started: %v, page %q, want %q", err, page(), was)
	}
	same(t, "the remembered lab", s.remembered(t), remembered)
}

func TestOnlyABackendHasAPageToStop(t *testing.T) {
	s := newSite(t)
	s.up(t)
	for _, name := range []string{"lb", "client", "nobody"} {
		if err := s.lab().StopPage(t.Context(), name); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

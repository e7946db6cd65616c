package service

import (
	"errors"
	"testing"

	"l4lab/agent/api"
)

func TestServiceThatTheSystemCannotDoIsRefusedAndNothingChanges(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	refusal := &api.Error{Field: "encap", Message: "this system has none"}
	m.admit = func(s api.Service) error {
		if s.Mode == "dsr" && s.Encap == "ipip" {
			return refusal
		}
		return nil
	}
	tunnelled := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	if _, err := m.Put(t.Context(), tunnelled); !errors.Is(err, refusal) {
		t.Errorf("got %v", err)
	}
	if len(m.Services()) != 0 {
		t.Errorf("services %+v", m.Services())
	}
	tunnelled.Mode = "snat"
	if _, err := m.Put(t.Context(), tunnelled); err != nil {
		t.Error(err)
	}
	// Its encapsulation matters again once the mode is dsr.
	if err := m.SetMode(t.Context(), "dsr", 1); err == nil {
		t.Error("the mode is switched to what the system cannot do")
	}
	if s, err := m.Service(1); err != nil || s.Mode != "snat" {
		t.Errorf("%+v, %v", s, err)
	}
}

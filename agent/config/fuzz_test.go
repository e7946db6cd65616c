package config

import (
	"encoding/json"
	"testing"
)

// FuzzConfig: no text makes the reader panic, and a config that loads is the same when it was
// written and read again.
func FuzzConfig(f *testing.F) {
	f.Add(string(Example()))
	f.Add("interface: eth0\nservices: [{id: 1, frontend: \"[::2]:80\", backends: [\"[::3]:80\"], healthCheck: {type: http, path: /}}]\n")
	f.Add("{interface: eth0, services: [{id: 1, frontend: 40.1.1.1:80, backends: [{address: 20.1.1.10:80, state: draining, drainUntil: 2030-01-02T03:04:05Z}]}]}")
	f.Add("interface: \"1\"\nlog: {level: debug}\ndrain: {deadline: 1h}\n")
	f.Add("interface: eth0\nvlan: drop\n")
	f.Fuzz(func(t *testing.T, text string) {
		first, err := Parse("fuzz.yaml", []byte(text), nil)
		if err != nil {
			if err.Error() == "" {
				t.Error("a fault without words")
			}
			return
		}
		written, err := Marshal(first.Config)
		if err != nil {
			t.Fatalf("a config that loads cannot be written: %v", err)
		}
		second, err := Parse("again.yaml", written, nil)
		if err != nil {
			t.Fatalf("what was written does not load: %v\n%s", err, written)
		}
		// As JSON, a list without elements is the same as none.
		a, errA := json.Marshal(first.Config)
		b, errB := json.Marshal(second.Config)
		if errA != nil || errB != nil || string(a) != string(b) {
			t.Errorf("read %s\nand then %s", a, b)
		}
	})
}

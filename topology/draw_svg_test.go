package topology

import (
	"encoding/xml"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

func TestSVGShowsEachMachineAndWhatStandsInForIt(t *testing.T) {
	demo := Default()
	status := Status{"lb": {MAC: "02:00:00:00:00:01", Emulated: true}}
	drawn := SVG(demo, status)
	for _, want := range []string{"client", "lb", "be1", "be4", "20.1.1.100", "20.1.1.40", "02:00:00:00:00:01", "windows (emulated)", "40.1.1.1:80/tcp", "20.1.1.0/24"} {
		if !strings.Contains(drawn, want) {
			t.Errorf("the drawing lacks %s", want)
		}
	}
	if strings.Contains(SVG(demo, nil), "emulated") {
		t.Error("without a status, something is emulated")
	}
}

func TestSVGIsWellFormedWhateverTheNamesAre(t *testing.T) {
	for name, topo := range map[string]Topology{
		"nothing at all": {},
		"hostile names": {Name: "<a>\"&'\x01", Client: Client{Name: "]]><script>"}, Nodes: map[string]Node{
			"</svg>": {Role: RoleLoadBalancer}, "<b onload=x>": {Role: RoleBackend, OS: "&", Address: netip.MustParseAddr("10.0.0.1")},
		}},
	} {
		for d := xml.NewDecoder(strings.NewReader(SVG(topo, nil))); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e, ok := token.(xml.StartElement); ok && (e.Name.Local == "script" || e.Name.Local == "b") {
				t.Errorf("%s: an element %s", name, e.Name.Local)
			}
		}
	}
}

func TestSVGGrowsWithTheBackends(t *testing.T) {
	big := Default()
	before := strings.Count(SVG(big, nil), "<rect")
	for _, name := range []string{"be5", "be6", "be7", "be8", "be9"} {
		big.Nodes[name] = Node{Role: RoleBackend, OS: Linux, Address: netip.MustParseAddr("20.1.1.50")}
	}
	if after := strings.Count(SVG(big, nil), "<rect"); after != before+5 {
		t.Errorf("%d boxes, want %d", after, before+5)
	}
}

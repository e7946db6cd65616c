package netnsguests

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/role/windows/guestscripts"
)

func escape(w io.Writer, text string) error { return xml.EscapeText(w, []byte(text)) }

// get fetches a page from the host, on a connection of its own; "" when that fails.
func (r *rig) get(url string) string {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return r.HostDial(ctx, network, address)
	}}}
	answer, err := client.Get(url)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return string(text)
}

// frames reads a capture.
func frames(t *testing.T, path string) [][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	reader, err := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	var list [][]byte
	for {
		data, _, err := reader.ReadPacketData()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, data)
	}
}

// finished says whether the checksum of a frame's TCP segment is the right one.
// Of an IP-in-IP packet the inner one counts.
func finished(frame []byte) (is bool, checked bool) {
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	tcp, ok := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok {
		return false, false
	}
	var ip *layers.IPv4
	for _, l := range packet.Layers() {
		if inner, ok := l.(*layers.IPv4); ok {
			ip = inner
		}
	}
	header := *tcp
	if err := header.SetNetworkLayerForChecksum(ip); err != nil {
		return false, true
	}
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{ComputeChecksums: true}, &header, gopacket.Payload(tcp.Payload)); err != nil {
		return false, true
	}
	return bytes.Equal(buffer.Bytes()[16:18], tcp.Contents[16:18]), true
}

func TestFiveMachinesServeAVIPByDirectServerReturn(t *testing.T) {
	r := newRig(t, "tgf", nil)
	r.lan()
	err := r.SetHost(t.Context(), hvsim.HostNetwork{
		Switch: "lan", Addresses: []netip.Prefix{netip.MustParsePrefix("20.1.1.100/24")}, MTU: 1480,
		Routes: map[netip.Prefix]netip.Addr{netip.MustParsePrefix("40.1.1.1/32"): netip.MustParseAddr("20.1.1.1")},
	})
	if err != nil {
		t.Fatal(err)
	}
	lb, be1, be2 := r.windows("lb", "20.1.1.1"), r.windows("be1", "20.1.1.10"), r.windows("be2", "20.1.1.20")
	be3, be4 := r.linux("be3", "20.1.1.30", ""), r.linux("be4", "20.1.1.40", "")
	r.start(lb.m, be1.m, be2.m, be3, be4)

	lb.prepare("20.1.1.1")
	lb.service("l4lab-agent", "serve", "--device", "Ethernet", "--address", "20.1.1.1", "--image", `C:\l4lab\lb.sys`, "--profile", "efw-0.21")
	for name, w := range map[string]*win{"be1": be1, "be2": be2} {
		address := map[string]string{"be1": "20.1.1.10", "be2": "20.1.1.20"}[name]
		w.prepare(address)
		do(w, w.verbs.VIPsEnsure, guestscripts.VIPsEnsureParams{Addresses: []string{"40.1.1.1"}, MAC: windowsMAC(w.m.MAC.String()), Loopback: "builtin"})
		w.service("l4lab-web", "web", "--name", name, "--address", address, "--os", "windows", "--tcp", ":80")
		w.service("l4lab-decap", "decap", "attach", "--interface", "Ethernet", "--address", address, "--balancer", "20.1.1.1", "--hook", "xdp", "--image", `C:\l4lab\decap_xdp.sys`, "--pin-dir", "decap")
	}
	program, err := os.ReadFile(r.options.Program)
	if err != nil {
		t.Fatal(err)
	}
	for name, address := range map[string]string{"be3": "20.1.1.30", "be4": "20.1.1.40"} {
		if out, err := r.trySh(address, "cat > /usr/local/bin/lbagent && chmod 755 /usr/local/bin/lbagent", program); err != nil {
			t.Fatal(err, out)
		}
		unit := "[Service]\nType=simple\nExecStart=/usr/local/bin/lbagent web --name " + name + " --address " + address + " --os linux --tcp :80\n[Install]\nWantedBy=multi-user.target\n"
		if out, err := r.trySh(address, "cat > /etc/systemd/system/l4lab-web.service", []byte(unit)); err != nil {
			t.Fatal(err, out)
		}
		r.sh(address, "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore && echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce && ip address add 40.1.1.1/32 dev lo && "+
			"systemctl enable --now l4lab-web && lbagent decap --interface eth0 --address "+address+" --balancer 20.1.1.1 --hook tc --pin-dir /sys/fs/bpf/decap")
	}
	r.await("the agent answers", func() bool { return lb.exec("", "status").ExitCode == 0 })
	if got := lb.exec("", "service", "update", "--frontend=40.1.1.1:80", "--backends=20.1.1.10:80,20.1.1.20:80,20.1.1.30:80,20.1.1.40:80", "--id=1"); got.ExitCode != 0 {
		t.Fatalf("service update: %s %s", plain(got.Stdout), plain(got.Stderr))
	}

	stop, err := r.Capture(t.Context(), []string{"lb", "be1", "be2", "be3", "be4", ""})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	r.await("answered by all four backends", func() bool {
		var who struct{ Name string }
		if json.Unmarshal([]byte(r.get("http://40.1.1.1/whoami")), &who) == nil {
			seen[who.Name] = true
		}
		return len(seen) == 4
	})
	if size := len(r.get("http://40.1.1.1/bytes?n=300000&seed=1")); size != 300000 {
		t.Errorf("a download brought %d bytes of 300000", size)
	}
	dropped, err := stop(func(id string) string { return filepath.Join(r.dir, id+".pcapng") })
	if err != nil {
		t.Fatal(err)
	}
	tunnelled := 0
	for _, id := range []string{"lb", "be1", "be2", "be3", "be4", ""} {
		checked := 0
		for _, frame := range frames(t, filepath.Join(r.dir, id+".pcapng")) {
			is, tcp := finished(frame)
			if !tcp {
				continue
			}
			checked++
			if !is {
				t.Errorf("port of %q: a checksum is not finished: %x", id, frame[:min(len(frame), 80)])
			}
			if len(frame) > 14+1500 {
				t.Errorf("port of %q: a frame of %d bytes", id, len(frame))
			}
			if frame[23] == 4 {
				tunnelled++
			}
		}
		if checked == 0 || dropped[id] != 0 {
			t.Errorf("port of %q: %d TCP segments, %d frames dropped", id, checked, dropped[id])
		}
	}
	if tunnelled == 0 {
		t.Error("nothing was sent in IP-in-IP")
	}
	status := lb.exec("", "service", "dumpstate", "--id", "1")
	if status.ExitCode != 0 || !strings.Contains(plain(status.Stdout), "20.1.1.100") {
		t.Errorf("dumpstate: %s %s", plain(status.Stdout), plain(status.Stderr))
	}
}

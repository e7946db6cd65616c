package seed_test

import (
	"bytes"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"l4lab/lab/guest/keys"
	"l4lab/lab/guest/seed"
)

func example(t *testing.T) seed.Seed {
	t.Helper()
	dir := t.TempDir()
	login, err := keys.Client(dir)
	if err != nil {
		t.Fatal(err)
	}
	host, err := keys.Host(dir, "be3")
	if err != nil {
		t.Fatal(err)
	}
	return seed.Seed{
		Hostname: "be3", User: seed.Root, Login: login, HostKey: host,
		MAC: net.HardwareAddr{0, 0x15, 0x5d, 1, 1, 0x1e}, Address: netip.MustParsePrefix("20.1.1.30/24"), MTU: 1500,
	}
}

func write(t *testing.T, s seed.Seed) []byte {
	t.Helper()
	var disc bytes.Buffer
	if err := seed.Write(&disc, s); err != nil {
		t.Fatal(err)
	}
	return disc.Bytes()
}

func TestADiscSaysWhoTheGuestIs(t *testing.T) {
	s := example(t)
	s.Files = []seed.File{{Path: "/etc/motd", Content: "line 1\n  \"line\" 2: $x\n\n", Permissions: "0600"}}
	s.BootCommands = [][]string{{"modprobe", "cls_bpf"}}
	got, err := seed.Read(bytes.NewReader(write(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	user, files := got.UserData, got.UserData.Files
	got.UserData.Files = nil
	want := seed.UserData{
		Hostname: "be3", DeleteHostKeys: true,
		Users:        []seed.User{{Name: "root", LockPassword: true, AuthorizedKeys: []string{s.Login.Public()}}},
		HostKeys:     map[string]string{seed.HostKeyPrivate: string(s.HostKey.Private()), seed.HostKeyPublic: s.HostKey.Public()},
		BootCommands: s.BootCommands,
	}
	if !reflect.DeepEqual(got.UserData, want) {
		t.Errorf("user-data is\n%+v, want\n%+v", got.UserData, want)
	}
	if len(files) != 2 || files[1] != s.Files[0] || !strings.Contains(files[0].Content, "PasswordAuthentication no") {
		t.Errorf("its files are %+v", files)
	}
	if user.PasswordLogin {
		t.Error("passwords are let in")
	}
	network := seed.NetworkConfig{Version: 2, Ethernets: map[string]seed.Ethernet{seed.Interface: {
		Match: seed.Match{MAC: "00:15:5d:01:01:1e"}, MTU: 1500, Addresses: []string{"20.1.1.30/24"},
	}}}
	if !reflect.DeepEqual(got.NetworkConfig, network) {
		t.Errorf("network-config is %+v, want %+v", got.NetworkConfig, network)
	}
	if got.MetaData.LocalHostname != "be3" || !strings.HasPrefix(got.MetaData.InstanceID, "l4lab-") {
		t.Errorf("meta-data is %+v", got.MetaData)
	}
	if key, err := keys.Parse([]byte(user.HostKeys[seed.HostKeyPrivate]), ""); err != nil || key.Fingerprint() != s.HostKey.Fingerprint() {
		t.Errorf("the host key does not survive: %v", err)
	}
}

func TestAnotherUserMayUseSudoAndRootStaysOut(t *testing.T) {
	s := example(t)
	s.User = "l4lab"
	got, err := seed.Read(bytes.NewReader(write(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	u := got.UserData.Users[0]
	if u.Name != "l4lab" || u.Sudo != "ALL=(ALL) NOPASSWD:ALL" || !u.LockPassword || !got.UserData.DisableRoot {
		t.Errorf("user %+v, root kept out: %v", u, got.UserData.DisableRoot)
	}
}

func TestTheSameSeedGivesTheSameDisc(t *testing.T) {
	s := example(t)
	first := write(t, s)
	if !bytes.Equal(first, write(t, s)) {
		t.Error("the second disc has other bytes")
	}
	if label := string(first[16*2048+40:][:len(seed.Label)]); label != seed.Label {
		t.Errorf("its label is %q", label)
	}
	for name, change := range map[string]func(*seed.Seed){
		"hostname": func(s *seed.Seed) { s.Hostname = "be4" },
		"address":  func(s *seed.Seed) { s.Address = netip.MustParsePrefix("20.1.1.31/24") },
		"MTU":      func(s *seed.Seed) { s.MTU = 9000 },
	} {
		other := s
		change(&other)
		a, errA := seed.Read(bytes.NewReader(first))
		b, errB := seed.Read(bytes.NewReader(write(t, other)))
		if errA != nil || errB != nil || a.MetaData.InstanceID == b.MetaData.InstanceID {
			t.Errorf("another %s is the same instance: cloud-init would pass over it (%v, %v)", name, errA, errB)
		}
	}
}

func TestASeedThatCannotWorkIsRefused(t *testing.T) {
	for name, change := range map[string]func(*seed.Seed){
		"hostname": func(s *seed.Seed) { s.Hostname = "be3\nroot" },
		"user":     func(s *seed.Seed) { s.User = "root: x" },
		"log in":   func(s *seed.Seed) { s.Login = keys.Key{} },
		"host key": func(s *seed.Seed) { s.HostKey = keys.Key{} },
		"MAC":      func(s *seed.Seed) { s.MAC = nil },
		"address":  func(s *seed.Seed) { s.Address = netip.Prefix{} },
		"MTU":      func(s *seed.Seed) { s.MTU = 0 },
		"file":     func(s *seed.Seed) { s.Files = []seed.File{{Path: "x", Permissions: "0644"}} },
	} {
		t.Run(name, func(t *testing.T) {
			s := example(t)
			change(&s)
			if err := seed.Write(new(bytes.Buffer), s); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("Write = %v, want an error about the %s", err, name)
			}
		})
	}
}

func TestReadRefusesWhatIsNoSeed(t *testing.T) {
	disc := write(t, example(t))
	other := bytes.Clone(disc)
	copy(other[16*2048+40:], "CDROM1")
	for name, image := range map[string][]byte{"nothing": nil, "another label": other, "a disc cut off": disc[:19*2048]} {
		if _, err := seed.Read(bytes.NewReader(image)); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
}

func TestAVolumesLabelIsReadFromOneSector(t *testing.T) {
	disc := write(t, example(t))
	if label, err := seed.VolumeLabel(bytes.NewReader(disc[:17*2048])); err != nil || label != seed.Label {
		t.Errorf("the label is %q (%v)", label, err)
	}
	for name, image := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 40*1024), "a disc cut off": disc[:16*2048+100]} {
		if label, err := seed.VolumeLabel(bytes.NewReader(image)); err == nil {
			t.Errorf("%s has the label %q", name, label)
		}
	}
}

func TestAFaultInADiscIsNotQuoted(t *testing.T) {
	s := example(t)
	secret := strings.Split(string(s.HostKey.Private()), "\n")[1]
	disc := bytes.Replace(write(t, s), []byte("ssh_keys:"), []byte("ssh_keyz:"), 1)
	_, err := seed.Read(bytes.NewReader(disc))
	if err == nil || !strings.Contains(err.Error(), "ssh_keyz") || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v, want the fault's place and nothing of the key", err)
	}
}

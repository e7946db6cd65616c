package answer_test

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"net"
	"net/netip"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"l4lab/lab/guest/answer"
	"l4lab/lab/guest/disc"
	"l4lab/lab/guest/keys"
	"l4lab/lab/powershell"
)

// canary is the password in every test: it must show nowhere in clear.
const canary = "c4nary-7f3a <&>"

// unattend is what of an answer file Windows Setup reads.
type unattend struct {
	XMLName  xml.Name `xml:"urn:schemas-microsoft-com:unattend unattend"`
	Settings []struct {
		Pass       string `xml:"pass,attr"`
		Components []struct {
			Name         string `xml:"name,attr"`
			Architecture string `xml:"processorArchitecture,attr"`
			Computer     string `xml:"ComputerName"`
			Zone         string `xml:"TimeZone"`
			Commands     []struct {
				Action string `xml:"http://schemas.microsoft.com/WMIConfig/2002/State action,attr"`
				Order  int
				Path   string
			} `xml:"RunSynchronous>RunSynchronousCommand"`
			Administrator secret `xml:"UserAccounts>AdministratorPassword"`
			Accounts      []struct {
				Name, Group string
				Password    secret
			} `xml:"UserAccounts>LocalAccounts>LocalAccount"`
			HideEULA bool `xml:"OOBE>HideEULAPage"`
		} `xml:"component"`
	} `xml:"settings"`
}

type secret struct {
	Value     string
	PlainText bool
}

// open returns a hidden password.
func (s secret) open(t *testing.T, element string) string {
	t.Helper()
	wide, err := base64.StdEncoding.DecodeString(s.Value)
	if err != nil || s.PlainText {
		t.Fatalf("hidden password %v, plain %v", err, s.PlainText)
	}
	var text []byte
	for i := 0; i+1 < len(wide); i += 2 {
		text = append(text, wide[i])
	}
	return strings.TrimSuffix(string(text), element)
}

func parse(t *testing.T, text []byte) unattend {
	t.Helper()
	var u unattend
	if err := xml.Unmarshal(text, &u); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestAnAnswerFileNamesTheComputerAndItsAdministrator(t *testing.T) {
	for _, c := range []struct{ name, user string }{
		{"the administrator that Windows has", "administrator"},
		{"one of the user's own, who is made", `lab "&" co`},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, err := answer.File{Computer: "be1", User: c.user, Password: canary, Commands: []string{`a "b" & c`, "d"}}.Text()
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(text, []byte(canary)) {
				t.Error("the password stands in it in clear")
			}
			u := parse(t, text)
			if len(u.Settings) != 2 || u.Settings[0].Pass != "specialize" || u.Settings[1].Pass != "oobeSystem" {
				t.Fatalf("passes %+v", u.Settings)
			}
			specialize, oobe := u.Settings[0].Components, u.Settings[1].Components
			if specialize[0].Computer != "be1" || specialize[0].Zone != "UTC" || specialize[0].Architecture != "amd64" {
				t.Errorf("specialize %+v", specialize[0])
			}
			commands := specialize[1].Commands
			if specialize[1].Name != "Microsoft-Windows-Deployment" || len(commands) != 2 || commands[0].Path != `a "b" & c` || commands[1].Order != 2 || commands[0].Action != "add" {
				t.Errorf("commands %+v", specialize[1])
			}
			shell := oobe[1]
			if !shell.HideEULA || shell.Administrator.open(t, "AdministratorPassword") != canary {
				t.Errorf("oobeSystem %+v", shell)
			}
			if own := !strings.EqualFold(c.user, answer.Administrator); own != (len(shell.Accounts) == 1) {
				t.Fatalf("accounts %+v", shell.Accounts)
			} else if own && (shell.Accounts[0].Name != c.user || shell.Accounts[0].Password.open(t, "Password") != canary || shell.Accounts[0].Group != "Administrators") {
				t.Errorf("account %+v", shell.Accounts[0])
			}
		})
	}
}

func TestAnAnswerFileThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		name string
		file answer.File
		want string
	}{
		{"no name", answer.File{User: "u", Password: canary}, "1 to 15 characters"},
		{"a name that NetBIOS has no room for", answer.File{Computer: "sixteen-letters-", User: "u", Password: canary}, "1 to 15 characters"},
		{"no password", answer.File{Computer: "be1", User: "u"}, "a password"},
		{"a command that Windows Setup cuts off", answer.File{Computer: "be1", User: "u", Password: canary, Commands: []string{strings.Repeat("x", 260)}}, "takes 259"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.file.Text()
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func write(t *testing.T) (answer.Disc, string, map[string][]byte) {
	t.Helper()
	server, err := keys.Server(t.TempDir(), "be1")
	if err != nil {
		t.Fatal(err)
	}
	d := answer.Disc{Name: "be1", Password: powershell.Password(canary), MAC: net.HardwareAddr{2, 0x15, 0x5d, 1, 1, 0xa},
		Address: netip.MustParsePrefix("20.1.1.10/24"), Certificate: server}
	var image bytes.Buffer
	if err := answer.Write(&image, d); err != nil {
		t.Fatal(err)
	}
	label, files, err := disc.Read(bytes.NewReader(image.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return d, label, files
}

func TestADiscHasWhatBringsWinRMUp(t *testing.T) {
	d, label, files := write(t)
	if label != answer.Label || len(files) != 7 {
		t.Fatalf("label %q, %d files", label, len(files))
	}
	var settings answer.Settings
	if err := json.Unmarshal(files["lab.json"], &settings); err != nil {
		t.Fatal(err)
	}
	want := answer.Settings{Name: "be1", MAC: "02-15-5D-01-01-0A", Address: "20.1.1.10", PrefixLength: 24, Subnet: "20.1.1.0/24", PFXPassword: settings.PFXPassword}
	if settings != want {
		t.Errorf("settings %+v, want %+v", settings, want)
	}
	key, leaf, err := pkcs12.Decode(files["winrm.pfx"], settings.PFXPassword)
	if err != nil {
		t.Fatal(err)
	}
	if !leaf.Equal(d.Certificate.Leaf()) || !key.(*rsa.PrivateKey).Equal(d.Certificate.Key()) {
		t.Error("the PFX file has another certificate or key")
	}
	// Windows Setup takes one name or the other, by the pass and the medium.
	if !bytes.Equal(files["unattend.xml"], files["autounattend.xml"]) {
		t.Error("the two answer files differ")
	}
	u := parse(t, files["unattend.xml"])
	if got := u.Settings[1].Components[1].Administrator.open(t, "AdministratorPassword"); got != canary {
		t.Error("another password")
	}
	commands := u.Settings[0].Components[1].Commands
	if len(commands) != 1 || !strings.Contains(commands[0].Path, "'prepare.cmd'") || !strings.Contains(commands[0].Path, "-eq '"+label+"'") {
		t.Errorf("commands %+v", commands)
	}
}

// Each step leads to the next one by a file's name.
func TestADiscsScriptsRunOneAnother(t *testing.T) {
	_, _, files := write(t)
	for _, c := range []struct{ file, names string }{
		{"unattend.xml", "prepare.cmd"}, {"prepare.cmd", "complete.cmd"}, {"complete.cmd", "start.ps1"}, {"start.ps1", "lab.json"}, {"start.ps1", "winrm.pfx"},
	} {
		if !bytes.Contains(files[c.file], []byte(c.names)) || files[c.names] == nil {
			t.Errorf("%s does not lead to %s", c.file, c.names)
		}
	}
	for _, name := range []string{"prepare.cmd", "complete.cmd", "start.ps1"} {
		if text := files[name]; bytes.Count(text, []byte("\n")) != bytes.Count(text, []byte("\r\n")) {
			t.Errorf("%s has lines that do not end as Windows wants them", name)
		}
	}
	// In a batch file a percent sign would be a variable's, in an answer file too.
	if bytes.Contains(files["complete.cmd"], []byte("%")) {
		t.Error("complete.cmd has a percent sign")
	}
}

func TestOnlyFilesThatHaveToHoldASecretHoldOne(t *testing.T) {
	_, _, files := write(t)
	hidden := []byte(answer.Hidden(canary, "AdministratorPassword"))
	for name, content := range files {
		if bytes.Contains(content, []byte("c4nary")) {
			t.Errorf("%s has the password in clear", name)
		}
		if answers := strings.HasSuffix(name, ".xml"); bytes.Contains(content, hidden) != answers {
			t.Errorf("%s: holds the password: %v", name, !answers)
		}
	}
}

func TestADiscThatCannotBe(t *testing.T) {
	d, _, _ := write(t)
	for name, spoil := range map[string]func(*answer.Disc){
		"no certificate":  func(d *answer.Disc) { d.Certificate = keys.Certificate{} },
		"no MAC":          func(d *answer.Disc) { d.MAC = nil },
		"an IPv6 address": func(d *answer.Disc) { d.Address = netip.MustParsePrefix("fd00::1/64") },
		"a long name":     func(d *answer.Disc) { d.Name = "sixteen-letters-" },
	} {
		t.Run(name, func(t *testing.T) {
			spoilt := d
			spoil(&spoilt)
			var image bytes.Buffer
			if err := answer.Write(&image, spoilt); err == nil || image.Len() != 0 || strings.Contains(err.Error(), canary) {
				t.Errorf("%d bytes, error %v", image.Len(), err)
			}
		})
	}
}

package answer

import (
	"crypto/x509"
	_ "embed" // the scripts
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"software.sslmate.com/src/go-pkcs12"

	"l4lab/lab/guest/disc"
	"l4lab/lab/guest/keys"
	"l4lab/lab/powershell"
)

// Label is the name of the disc's volume, by which its scripts find it again
// whatever its drive's letter is.
const Label = "L4LAB"

// The names of a disc's files.
const (
	settingsFile    = "lab.json"
	certificateFile = "winrm.pfx"
	startFile       = "start.ps1"
	prepareFile     = "prepare.cmd"
	completeFile    = "complete.cmd"
)

// answerFiles are the names that Windows Setup looks for.
func answerFiles() []string { return []string{"unattend.xml", "autounattend.xml"} }

//go:embed start.ps1
var startText string

// prepareText is of few words, since what runs in pass specialize is not seen.
const prepareText = `@echo off
rem Written by labctl. The answer file runs this, from the disc, in pass specialize.
md "%WINDIR%\Setup\Scripts" 2>nul
copy /y "%~dp0complete.cmd" "%WINDIR%\Setup\Scripts\SetupComplete.cmd"
`

// completeText stays in the guest and holds no secret: what it runs goes with the disc.
func completeText() string {
	return "@echo off\nrem Written by labctl. Windows runs this at the end of its set-up.\n" + run(startFile) + "\n"
}

// run is the command line that runs a file of the disc. It has no percent sign, which
// the answer file's reader and cmd.exe would each take for their own.
func run(file string) string {
	return `powershell.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -Command "[IO.DriveInfo]::GetDrives() | ` +
		`Where-Object { $_.IsReady -and $_.VolumeLabel -eq '` + Label + `' } | ForEach-Object { & ($_.Name + '` + file + `') }"`
}

// Disc is a guest that is to serve WinRM.
type Disc struct {
	// Name is the node's, which becomes the computer's.
	Name string
	// Password is Administrator's.
	Password powershell.Password
	// MAC finds the adapter.
	MAC     net.HardwareAddr
	Address netip.Prefix
	// Certificate is the WinRM server's.
	Certificate keys.Certificate
}

// Settings are what start.ps1 reads of the disc. Nothing of it is secret: the PFX
// file lies beside it, so that its password keeps nobody out.
type Settings struct {
	Name         string `json:"name"`
	MAC          string `json:"mac"` // as Windows writes it: 00-15-5D-01-01-0A
	Address      string `json:"address"`
	PrefixLength int    `json:"prefixLength"`
	// Subnet is who may come to WinRM's port.
	Subnet      string `json:"subnet"`
	PFXPassword string `json:"pfxPassword"`
}

// pfxPassword is there because a PFX without one is read differently by different
// releases of Windows.
const pfxPassword = "l4lab"

// Write writes the disc's image: as secret as the password and the key in it.
func Write(w io.Writer, d Disc) error {
	if len(d.MAC) != 6 || !d.Address.Addr().Is4() || d.Certificate.Leaf() == nil {
		return fmt.Errorf("disc for Windows node %q: a MAC address, an IPv4 prefix and a certificate are needed", d.Name)
	}
	answers, err := File{Computer: d.Name, User: Administrator, Password: d.Password, Commands: []string{run(prepareFile)}}.Text()
	if err != nil {
		return err
	}
	settings, err := json.MarshalIndent(Settings{
		Name: d.Name, MAC: strings.ToUpper(strings.ReplaceAll(d.MAC.String(), ":", "-")),
		Address: d.Address.Addr().String(), PrefixLength: d.Address.Bits(), Subnet: d.Address.Masked().String(), PFXPassword: pfxPassword,
	}, "", "  ")
	if err != nil {
		return err
	}
	// The encryption that every Windows since Vista reads; 2016 knows no newer one.
	pfx, err := pkcs12.LegacyDES.Encode(d.Certificate.Key(), d.Certificate.Leaf(), []*x509.Certificate{}, pfxPassword)
	if err != nil {
		return fmt.Errorf("disc for Windows node %s: pack its certificate: %w", d.Name, err)
	}
	files := []disc.File{
		{Name: settingsFile, Content: append(settings, '\n')}, {Name: certificateFile, Content: pfx},
		{Name: startFile, Content: windowsLines(startText)}, {Name: prepareFile, Content: windowsLines(prepareText)},
		{Name: completeFile, Content: windowsLines(completeText())},
	}
	for _, name := range answerFiles() {
		files = append(files, disc.File{Name: name, Content: answers})
	}
	if err := disc.Write(w, Label, files); err != nil {
		return fmt.Errorf("disc for Windows node %s: %w", d.Name, err)
	}
	return nil
}

// windowsLines ends lines as cmd.exe wants them.
func windowsLines(text string) []byte { return []byte(strings.ReplaceAll(text, "\n", "\r\n")) }

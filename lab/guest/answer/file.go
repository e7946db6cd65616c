package answer

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"strings"
	"text/template"
	"unicode/utf16"

	"l4lab/lab/powershell"
)

// Administrator is the user that every Windows has.
const Administrator = "Administrator"

// File is what a Windows guest is told at its first start after sysprep.
type File struct {
	// Computer is its name, of at most 15 characters, as a node's is.
	Computer string
	// User is who administers it; another than Administrator is made, with the
	// same password.
	User     string
	Password powershell.Password
	// Commands run one after the other in the pass specialize, as Local System,
	// before there is a network. Each has at most 259 characters.
	Commands []string
}

// fileText is a Windows answer file (Microsoft's "Unattended Windows Setup
// Reference"): the computer's name, the administrator, and no questions. The
// passwords stand in it as Windows' own tools write them, which hides them from
// nobody who reads it: setup-clean removes the file in the guest.
const fileText = `<?xml version="1.0" encoding="utf-8"?>
<unattend xmlns="urn:schemas-microsoft-com:unattend" xmlns:wcm="http://schemas.microsoft.com/WMIConfig/2002/State">
  <settings pass="specialize">
    <component name="Microsoft-Windows-Shell-Setup" processorArchitecture="amd64" publicKeyToken="31bf3856ad364e35" language="neutral" versionScope="nonSxS">
      <ComputerName>{{xml .Computer}}</ComputerName>
      <TimeZone>UTC</TimeZone>
    </component>
{{- if .Commands}}
    <component name="Microsoft-Windows-Deployment" processorArchitecture="amd64" publicKeyToken="31bf3856ad364e35" language="neutral" versionScope="nonSxS">
      <RunSynchronous>
{{- range $i, $command := .Commands}}
        <RunSynchronousCommand wcm:action="add">
          <Order>{{order $i}}</Order>
          <Path>{{xml $command}}</Path>
        </RunSynchronousCommand>
{{- end}}
      </RunSynchronous>
    </component>
{{- end}}
  </settings>
  <settings pass="oobeSystem">
    <component name="Microsoft-Windows-International-Core" processorArchitecture="amd64" publicKeyToken="31bf3856ad364e35" language="neutral" versionScope="nonSxS">
      <InputLocale>en-US</InputLocale>
      <SystemLocale>en-US</SystemLocale>
      <UILanguage>en-US</UILanguage>
      <UserLocale>en-US</UserLocale>
    </component>
    <component name="Microsoft-Windows-Shell-Setup" processorArchitecture="amd64" publicKeyToken="31bf3856ad364e35" language="neutral" versionScope="nonSxS">
      <OOBE>
        <HideEULAPage>true</HideEULAPage>
        <HideOnlineAccountScreens>true</HideOnlineAccountScreens>
        <HideWirelessSetupInOOBE>true</HideWirelessSetupInOOBE>
        <ProtectYourPC>3</ProtectYourPC>
      </OOBE>
      <UserAccounts>
        <AdministratorPassword>
          <Value>{{.AdministratorPassword}}</Value>
          <PlainText>false</PlainText>
        </AdministratorPassword>
{{- if .User}}
        <LocalAccounts>
          <LocalAccount wcm:action="add">
            <Name>{{xml .User}}</Name>
            <Group>Administrators</Group>
            <Password>
              <Value>{{.Password}}</Value>
              <PlainText>false</PlainText>
            </Password>
          </LocalAccount>
        </LocalAccounts>
{{- end}}
      </UserAccounts>
    </component>
  </settings>
</unattend>
`

// maxCommand is how long a command of an answer file may be, in characters.
const maxCommand = 259

// Text returns the file's XML: a secret, since it holds the password.
func (f File) Text() ([]byte, error) {
	if f.Computer == "" || len(f.Computer) > 15 || f.User == "" || f.Password == "" {
		return nil, fmt.Errorf("answer file of %q: a name of 1 to 15 characters, a user and a password are needed", f.Computer)
	}
	for _, c := range f.Commands {
		if len(c) > maxCommand {
			return nil, fmt.Errorf("answer file of %s: a command has %d characters, and Windows Setup takes %d: %s", f.Computer, len(c), maxCommand, c)
		}
	}
	escape := func(text string) (string, error) {
		var b strings.Builder
		err := xml.EscapeText(&b, []byte(text))
		return b.String(), err
	}
	t, err := template.New("unattend").Funcs(template.FuncMap{"xml": escape, "order": func(i int) int { return i + 1 }}).Parse(fileText)
	if err != nil {
		return nil, err
	}
	data := struct {
		Computer, User, AdministratorPassword, Password string
		Commands                                        []string
	}{Computer: f.Computer, AdministratorPassword: Hidden(f.Password, "AdministratorPassword"), Commands: f.Commands}
	if !strings.EqualFold(f.User, Administrator) {
		data.User, data.Password = f.User, Hidden(f.Password, "Password")
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("answer file of %s: %w", f.Computer, err)
	}
	return out.Bytes(), nil
}

// Hidden writes a password as Windows System Image Manager does, which hides it
// from nobody who knows: base64 of the password and the element's name, in UTF-16LE.
func Hidden(password powershell.Password, element string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(string(password) + element)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return base64.StdEncoding.EncodeToString(b)
}

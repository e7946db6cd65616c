package hyperv

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"strings"
	"text/template"
	"unicode/utf16"

	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

// unattendText is a Windows answer file (Microsoft's "Unattended Windows Setup
// Reference"): the computer's name, the administrator, and no questions. The
// passwords stand in it as Windows' own tools write them, which hides them from
// nobody who reads it: setup-clean removes the file in the guest.
const unattendText = `<?xml version="1.0" encoding="utf-8"?>
<unattend xmlns="urn:schemas-microsoft-com:unattend" xmlns:wcm="http://schemas.microsoft.com/WMIConfig/2002/State">
  <settings pass="specialize">
    <component name="Microsoft-Windows-Shell-Setup" processorArchitecture="amd64" publicKeyToken="31bf3856ad364e35" language="neutral" versionScope="nonSxS">
      <ComputerName>{{xml .Computer}}</ComputerName>
      <TimeZone>UTC</TimeZone>
    </component>
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

// unattend returns a Windows node's answer file.
func unattend(node string, login scripts.Credential) ([]byte, error) {
	escape := func(text string) (string, error) {
		var b strings.Builder
		err := xml.EscapeText(&b, []byte(text))
		return b.String(), err
	}
	t, err := template.New("unattend").Funcs(template.FuncMap{"xml": escape}).Parse(unattendText)
	if err != nil {
		return nil, err
	}
	data := struct{ Computer, User, AdministratorPassword, Password string }{
		Computer: node, AdministratorPassword: hidden(login.Password, "AdministratorPassword"),
	}
	// A computer's name is at most 15 characters, as a node's is.
	if !strings.EqualFold(login.User, topology.DefaultWindowsUser) {
		data.User, data.Password = login.User, hidden(login.Password, "Password")
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("answer file of %s: %w", node, err)
	}
	return out.Bytes(), nil
}

// hidden writes a password as Windows System Image Manager does: base64 of the
// password and the element's name, in UTF-16LE.
func hidden(password, element string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(password + element)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return base64.StdEncoding.EncodeToString(b)
}

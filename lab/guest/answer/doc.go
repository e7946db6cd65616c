// Package answer writes what tells a Windows guest who it is: an answer file
// (Microsoft's "Unattended Windows Setup Reference") for a disk that sysprep
// generalised, and for guests that serve WinRM a disc with that file and all that
// has them do so, so that labctl comes in without a hand at a console.
//
//	text, err := answer.File{Computer: "be1", User: answer.Administrator, Password: secret}.Text()
//	err = answer.Write(file, answer.Disc{Name: "be1", Password: secret, MAC: mac, Address: prefix, Certificate: server})
//
// Windows Setup looks for answer files by itself at the beginning of each of its
// passes, in the roots of removable media too ("Windows Setup Automation Overview");
// on read-only ones it takes autounattend.xml or unattend.xml by the pass, so that a
// disc has both. In pass specialize the file's one command has prepare.cmd put
// complete.cmd where Windows runs it as Local System at the end of its set-up,
// %WINDIR%\Setup\Scripts\SetupComplete.cmd ("Add a custom script to Windows Setup"):
// specialize itself is too early, since neither WinRM nor the firewall need run then,
// and FirstLogonCommands want somebody logged on, whose password Windows would keep.
// It runs start.ps1, which gives the adapter its address and has WinRM listen on
// port 5986 with the certificate of the disc.
//
// None of this has met a Windows: docs/windows.md lists what it rests on.
package answer

package seed

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/goccy/go-yaml"

	"l4lab/lab/guest/disc"
)

// Contents is what stands on a disc.
type Contents struct {
	UserData      UserData
	MetaData      MetaData
	NetworkConfig NetworkConfig
}

// UserData is the part of a #cloud-config that seeds use.
type UserData struct {
	PreserveHostname bool              `yaml:"preserve_hostname"`
	Hostname         string            `yaml:"hostname"`
	DisableRoot      bool              `yaml:"disable_root"`
	PasswordLogin    bool              `yaml:"ssh_pwauth"`
	Users            []User            `yaml:"users"`
	DeleteHostKeys   bool              `yaml:"ssh_deletekeys"`
	HostKeys         map[string]string `yaml:"ssh_keys"`
	BootCommands     [][]string        `yaml:"bootcmd,omitempty"`
	Files            []File            `yaml:"write_files"`
	PackageUpdate    bool              `yaml:"package_update"`
}

// The keys of UserData.HostKeys: the pair of OpenSSH's ed25519 host key.
const (
	HostKeyPrivate = "ed25519_private"
	HostKeyPublic  = "ed25519_public"
)

// User is a user who is let in by key alone.
type User struct {
	Name           string   `yaml:"name"`
	LockPassword   bool     `yaml:"lock_passwd"`
	Shell          string   `yaml:"shell,omitempty"`
	Sudo           string   `yaml:"sudo,omitempty"`
	AuthorizedKeys []string `yaml:"ssh_authorized_keys"`
}

// MetaData names the instance.
type MetaData struct {
	InstanceID    string `yaml:"instance-id"`
	LocalHostname string `yaml:"local-hostname"`
}

// NetworkConfig is a network-config of version 2 with one Ethernet interface.
type NetworkConfig struct {
	Version   int                 `yaml:"version"`
	Ethernets map[string]Ethernet `yaml:"ethernets"`
}

// Interface is the key of NetworkConfig.Ethernets. It is a name in the file
// alone; the interface keeps the kernel's.
const Interface = "lab"

// Ethernet is one interface.
type Ethernet struct {
	Match     Match    `yaml:"match"`
	DHCP4     bool     `yaml:"dhcp4"`
	DHCP6     bool     `yaml:"dhcp6"`
	AcceptRA  bool     `yaml:"accept-ra"`
	MTU       int      `yaml:"mtu"`
	Addresses []string `yaml:"addresses"`
}

// Match finds the interface.
type Match struct {
	MAC string `yaml:"macaddress"`
}

// sshdConfig tunes the server: keys alone, and room for the sessions that one
// labctl has at once. OpenSSH's 10 a connection are few for a lab's captures.
const sshdConfig = `# Written by labctl. The first value of a keyword counts.
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
MaxSessions 128
MaxStartups 64
UseDNS no
`

func (s Seed) userData() UserData {
	user := User{Name: s.User, LockPassword: true, AuthorizedKeys: []string{s.Login.Public()}}
	if s.User != Root {
		user.Shell, user.Sudo = "/bin/bash", "ALL=(ALL) NOPASSWD:ALL"
	}
	files := []File{{Path: "/etc/ssh/sshd_config.d/10-l4lab.conf", Content: sshdConfig, Permissions: "0644"}}
	return UserData{
		Hostname:       s.Hostname,
		DisableRoot:    s.User != Root,
		Users:          []User{user},
		DeleteHostKeys: true,
		HostKeys: map[string]string{
			HostKeyPrivate: string(s.HostKey.Private()),
			HostKeyPublic:  s.HostKey.Public(),
		},
		BootCommands: s.BootCommands,
		Files:        append(files, s.Files...),
	}
}

// networkConfig names neither a gateway nor name servers: a lab's switch leads
// nowhere else.
func (s Seed) networkConfig() NetworkConfig {
	return NetworkConfig{Version: 2, Ethernets: map[string]Ethernet{Interface: {
		Match: Match{MAC: s.MAC.String()}, MTU: s.MTU, Addresses: []string{s.Address.String()},
	}}}
}

// Read reads a disc that Write wrote, strictly: what it does not know is an error.
func Read(r io.ReaderAt) (Contents, error) {
	var c Contents
	label, files, err := disc.Read(r)
	if err != nil {
		return c, fmt.Errorf("read the seed: %w", err)
	}
	if label != Label {
		return c, fmt.Errorf("read the seed: its label is %q, not %q", label, Label)
	}
	into := map[string]any{userDataFile: &c.UserData, metaDataFile: &c.MetaData, networkConfigFile: &c.NetworkConfig}
	for name, content := range files {
		target, known := into[name]
		if !known {
			return c, fmt.Errorf("read the seed: it holds a file %q", name)
		}
		delete(into, name)
		if err := parse(name, content, target); err != nil {
			return c, fmt.Errorf("read the seed: %s: %w", name, err)
		}
	}
	for name := range into {
		return c, fmt.Errorf("read the seed: it lacks %s", name)
	}
	return c, nil
}

func parse(name string, content []byte, target any) error {
	if name == userDataFile && !bytes.HasPrefix(content, []byte(cloudConfig)) {
		return fmt.Errorf("its first line is not %q", cloudConfig)
	}
	if err := yaml.NewDecoder(bytes.NewReader(content), yaml.Strict()).Decode(target); err != nil {
		// The library's own text quotes the lines about the fault, and they may be a key's.
		return errors.New(yaml.FormatError(err, false, false))
	}
	return nil
}

// The primary volume descriptor's place and identifier, and where the volume's
// label is in it (ECMA-119 8.1, 8.4).
const (
	descriptorAt = 16 * 2048
	descriptorID = "\x01CD001"
	labelAt      = 40
	labelLength  = 32
)

// VolumeLabel returns the label of an ISO 9660 volume, from one sector of it.
// A device that holds no such volume is an error.
func VolumeLabel(r io.ReaderAt) (string, error) {
	descriptor := make([]byte, 2048)
	if _, err := r.ReadAt(descriptor, descriptorAt); err != nil {
		return "", fmt.Errorf("read the volume's label: %w", err)
	}
	if !bytes.HasPrefix(descriptor, []byte(descriptorID)) {
		return "", errors.New("read the volume's label: this is no ISO 9660 volume")
	}
	return string(bytes.TrimRight(descriptor[labelAt:labelAt+labelLength], " \x00")), nil
}

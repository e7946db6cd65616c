package guestinit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/kdomanski/iso9660"

	"l4lab/lab/guest/seed/apply"
)

// userData is what the stand-in for cloud-init knows of a #cloud-config, with
// the meaning of cloud-init's modules of the same names. DisableRoot and
// DeleteHostKeys ask for what a simulated image is like anyway.
type userData struct {
	PreserveHostname bool              `yaml:"preserve_hostname"`
	Hostname         string            `yaml:"hostname"`
	FQDN             string            `yaml:"fqdn"`
	DisableRoot      *bool             `yaml:"disable_root"`
	PasswordLogin    any               `yaml:"ssh_pwauth"`
	Users            []any             `yaml:"users"`
	AuthorizedKeys   []string          `yaml:"ssh_authorized_keys"`
	DeleteHostKeys   *bool             `yaml:"ssh_deletekeys"`
	HostKeys         map[string]string `yaml:"ssh_keys"`
	EarlyCommands    []any             `yaml:"bootcmd"`
	Commands         []any             `yaml:"runcmd"`
	Files            []seedFile        `yaml:"write_files"`
	PackageUpdate    bool              `yaml:"package_update"`
	Packages         []any             `yaml:"packages"`
}

// seedUser is an entry of users.
type seedUser struct {
	Name           string   `yaml:"name"`
	Gecos          string   `yaml:"gecos"`
	Groups         any      `yaml:"groups"`
	LockPassword   *bool    `yaml:"lock_passwd"`
	Shell          string   `yaml:"shell"`
	Sudo           any      `yaml:"sudo"`
	AuthorizedKeys []string `yaml:"ssh_authorized_keys"`
}

// seedFile is an entry of write_files.
type seedFile struct {
	Path        string `yaml:"path"`
	Content     string `yaml:"content"`
	Encoding    string `yaml:"encoding"`
	Owner       string `yaml:"owner"`
	Permissions string `yaml:"permissions"`
	Append      bool   `yaml:"append"`
	Defer       bool   `yaml:"defer"`
}

func (f seedFile) data() ([]byte, error) {
	switch f.Encoding {
	case "", "text/plain":
		return []byte(f.Content), nil
	case "b64", "base64":
		return base64.StdEncoding.DecodeString(strings.TrimSpace(f.Content))
	}
	return nil, fmt.Errorf("write_files: %s: encoding %q is not known here", f.Path, f.Encoding)
}

type metaData struct {
	InstanceID    string `yaml:"instance-id"`
	LocalHostname string `yaml:"local-hostname"`
	Hostname      string `yaml:"hostname"`
}

// networkConfig is a network-config of version 2.
type networkConfig struct {
	Version   int                     `yaml:"version"`
	Renderer  string                  `yaml:"renderer"`
	Ethernets map[string]seedEthernet `yaml:"ethernets"`
}

type seedEthernet struct {
	Match struct {
		MAC  string `yaml:"macaddress"`
		Name string `yaml:"name"`
	} `yaml:"match"`
	SetName     string      `yaml:"set-name"`
	DHCP4       bool        `yaml:"dhcp4"`
	DHCP6       bool        `yaml:"dhcp6"`
	AcceptRA    any         `yaml:"accept-ra"`
	LinkLocal   any         `yaml:"link-local"`
	Optional    bool        `yaml:"optional"`
	MTU         int         `yaml:"mtu"`
	Addresses   []string    `yaml:"addresses"`
	Gateway4    string      `yaml:"gateway4"`
	Routes      []seedRoute `yaml:"routes"`
	Nameservers any         `yaml:"nameservers"`
}

type seedRoute struct {
	To     string `yaml:"to"`
	Via    string `yaml:"via"`
	Metric int    `yaml:"metric"`
	OnLink bool   `yaml:"on-link"`
	MTU    int    `yaml:"mtu"`
}

// discLabel is the volume's name by which NoCloud finds its disc.
const discLabel = "cidata"

// readDisc returns the files of a NoCloud disc; fs.ErrNotExist without one.
func readDisc(path string) (map[string][]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	image, err := iso9660.OpenImage(file)
	if err != nil {
		return nil, fmt.Errorf("the disc is no ISO 9660 image: %w", err)
	}
	label, err := image.Label()
	if err != nil || !strings.EqualFold(label, discLabel) {
		return nil, fmt.Errorf("the disc's label is %q, not %q (%v)", label, discLabel, err)
	}
	root, err := image.RootDir()
	if err != nil {
		return nil, err
	}
	entries, err := root.GetChildren()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		if files[e.Name()], err = io.ReadAll(e.Reader()); err != nil {
			return nil, fmt.Errorf("read %s: %w", e.Name(), err)
		}
	}
	return files, nil
}

// decode reads YAML. What it does not know is in unknown, and the rest counts.
func decode(text []byte, into any) (unknown, err error) {
	unknown = yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(into)
	if unknown == nil || errors.Is(unknown, io.EOF) {
		return nil, nil
	}
	return unknown, yaml.Unmarshal(text, into)
}

// users returns the users of a #cloud-config. The word "default" is the image's
// own user, which a simulated image does not have.
func (u userData) users() (users []apply.User, unknown []error) {
	for _, entry := range u.Users {
		if name, ok := entry.(string); ok {
			if name != "default" {
				users = append(users, apply.User{Name: name})
			}
			continue
		}
		text, err := yaml.Marshal(entry)
		var user seedUser
		if err == nil {
			var strange error
			if strange, err = decode(text, &user); strange != nil {
				unknown = append(unknown, fmt.Errorf("users: %w", strange))
			}
		}
		if err != nil {
			unknown = append(unknown, fmt.Errorf("users: %w", err))
			continue
		}
		users = append(users, user.user())
	}
	return users, unknown
}

func (u seedUser) user() apply.User {
	user := apply.User{Name: u.Name, Comment: u.Gecos, Shell: u.Shell, AuthorizedKeys: u.AuthorizedKeys}
	user.LockPassword = u.LockPassword == nil || *u.LockPassword
	switch v := u.Sudo.(type) {
	case string:
		user.Sudo = []string{v}
	case []any:
		for _, rule := range v {
			user.Sudo = append(user.Sudo, fmt.Sprint(rule))
		}
	}
	return user
}

// commandOf returns the argv of a bootcmd's or runcmd's entry: a list as it
// is, a text through the shell.
func commandOf(entry any) ([]string, error) {
	switch v := entry.(type) {
	case string:
		return []string{"/bin/sh", "-c", v}, nil
	case []any:
		argv := make([]string, len(v))
		for i, a := range v {
			argv[i] = fmt.Sprint(a)
		}
		if len(argv) > 0 {
			return argv, nil
		}
	}
	return nil, fmt.Errorf("%v is neither a command line nor a list", entry)
}

// Package seed writes the disc that tells a Linux guest who it is: a cloud-init
// NoCloud seed (an ISO 9660 image with the label "cidata"), with the guest's
// name, its user and our key, its SSH host key, and its address by MAC.
//
//	err := seed.Write(file, seed.Seed{
//		Hostname: "be3", User: "root", Login: client, HostKey: host,
//		MAC: mac, Address: netip.MustParsePrefix("20.1.1.30/24"), MTU: 1500,
//	})
//
// There is no password in it at all: passwords are locked and refused. It holds
// the host key's private half, so it is as secret as that key. The same Seed
// gives the same bytes, so that an unchanged one is known by its hash, and
// the instance id follows from the content: cloud-init applies a changed seed
// at the next boot, and an unchanged one never again.
//
// Source: cloud-init's documentation of the NoCloud data source, the network
// config format version 2, and the modules users, ssh, and write_files (22.4).
package seed

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"github.com/hashicorp/go-multierror"

	"l4lab/lab/guest/disc"
	"l4lab/lab/guest/keys"
)

// Label is the volume's name, by which cloud-init finds the disc.
const Label = "cidata"

// Root is the user that needs no sudo; every other one gets it, without a password.
const Root = "root"

// Seed is what a guest is told.
type Seed struct {
	Hostname string
	// User is who labctl logs in as: Root, or another that may use sudo.
	User string
	// Login is the key whose public half is let in, HostKey the server's own.
	Login, HostKey keys.Key
	// MAC finds the interface, whatever its name is in the guest.
	MAC     net.HardwareAddr
	Address netip.Prefix
	// MTU in bytes.
	MTU int
	// Files are written at the first boot.
	Files []File
	// BootCommands run early in every boot, each as argv.
	BootCommands [][]string
}

// File is a file of root's.
type File struct {
	Path    string `yaml:"path"`
	Content string `yaml:"content"`
	// Permissions in octal digits: "0644".
	Permissions string `yaml:"permissions"`
}

// Write writes the disc's image.
func Write(w io.Writer, s Seed) error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("seed for %q: %w", s.Hostname, err)
	}
	files, err := s.files()
	if err != nil {
		return fmt.Errorf("seed for %s: %w", s.Hostname, err)
	}
	if err := disc.Write(w, Label, files); err != nil {
		return fmt.Errorf("seed for %s: %w", s.Hostname, err)
	}
	return nil
}

var (
	hostName = compiled(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	userName = compiled(`^[a-z_][a-z0-9_-]{0,31}$`)
	octal    = compiled(`^0[0-7]{3}$`)
)

func (s Seed) validate() error {
	var errs *multierror.Error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			errs = multierror.Append(errs, fmt.Errorf(format, args...))
		}
	}
	want(hostName().MatchString(s.Hostname), "hostname %q: want letters, digits and hyphens, 63 at most (RFC 1123)", s.Hostname)
	want(userName().MatchString(s.User), "user %q is no user name", s.User)
	want(s.Login.Signer() != nil, "there is no key to log in with")
	want(s.HostKey.Signer() != nil, "there is no host key")
	want(len(s.MAC) == 6, "MAC %q has not 6 bytes", s.MAC)
	want(s.Address.IsValid() && s.Address.Addr().Is4(), "address %s is no IPv4 prefix", s.Address)
	want(s.MTU >= 576 && s.MTU <= 65535, "MTU %d is not within 576 and 65535", s.MTU)
	for _, f := range s.Files {
		want(strings.HasPrefix(f.Path, "/"), "file %q: the path is not absolute", f.Path)
		want(octal().MatchString(f.Permissions), "file %s: permissions %q are not four octal digits", f.Path, f.Permissions)
	}
	return errs.ErrorOrNil()
}

// The names of the disc's files.
const (
	userDataFile      = "user-data"
	metaDataFile      = "meta-data"
	networkConfigFile = "network-config"
	// cloudConfig is the first line of a user-data that is a configuration.
	cloudConfig = "#cloud-config\n"
)

func (s Seed) files() ([]disc.File, error) {
	user, err := marshal(s.userData())
	if err != nil {
		return nil, err
	}
	user = append([]byte(cloudConfig), user...)
	network, err := marshal(s.networkConfig())
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	for _, part := range [][]byte{user, network, []byte(s.Hostname)} {
		fmt.Fprintf(h, "%d\n", len(part))
		h.Write(part)
	}
	meta, err := marshal(MetaData{InstanceID: "l4lab-" + hex.EncodeToString(h.Sum(nil))[:16], LocalHostname: s.Hostname})
	if err != nil {
		return nil, err
	}
	return []disc.File{{Name: userDataFile, Content: user}, {Name: metaDataFile, Content: meta}, {Name: networkConfigFile, Content: network}}, nil
}

func marshal(v any) ([]byte, error) {
	return yaml.MarshalWithOptions(v, yaml.UseLiteralStyleIfMultiline(true), yaml.IndentSequence(true))
}

// compiled returns an expression that is compiled at its first use: most calls of
// labctl need none of them.
func compiled(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

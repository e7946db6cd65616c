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
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"github.com/hashicorp/go-multierror"
	"github.com/kdomanski/iso9660"

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
	if err := writeISO(w, files); err != nil {
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

type named struct {
	name    string
	content []byte
}

func (s Seed) files() ([]named, error) {
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
	return []named{{userDataFile, user}, {metaDataFile, meta}, {networkConfigFile, network}}, nil
}

func marshal(v any) ([]byte, error) {
	return yaml.MarshalWithOptions(v, yaml.UseLiteralStyleIfMultiline(true), yaml.IndentSequence(true))
}

// The primary volume descriptor (ECMA-119 8.4): its place, and within it
// what differs from one writing to the next, the name of the system and the times.
const (
	descriptorAt       = 16 * 2048
	systemIdentifierAt = 8
	timesAt            = 813
	timesLength        = 4 * 17
)

// writeISO writes a disc whose bytes follow from the files alone. A time of
// zeros means "not specified" (ECMA-119 8.4.26.1).
func writeISO(w io.Writer, files []named) (err error) {
	image, err := iso9660.NewWriter() // stages the files in a folder of mode 0700
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.Cleanup()) }()
	for _, f := range files {
		if err := image.AddFile(bytes.NewReader(f.content), f.name); err != nil {
			return fmt.Errorf("add %s: %w", f.name, err)
		}
	}
	var disc bytes.Buffer
	if err := image.WriteTo(&disc, Label); err != nil {
		return err
	}
	descriptor := disc.Bytes()[descriptorAt : descriptorAt+2048]
	copy(descriptor[systemIdentifierAt:systemIdentifierAt+32], fmt.Sprintf("%-32s", "LINUX"))
	unspecified := append(bytes.Repeat([]byte{'0'}, 16), 0)
	copy(descriptor[timesAt:timesAt+timesLength], bytes.Repeat(unspecified, 4))
	_, err = disc.WriteTo(w)
	return err
}

// compiled returns an expression that is compiled at its first use: most calls of
// labctl need none of them.
func compiled(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

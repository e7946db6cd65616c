package guestinit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"l4lab/lab/guest/seed/apply"
)

// instanceFile remembers for which instance id the once-only work was done.
const instanceFile = "/var/lib/cloud/data/instance-id"

// networkFile keeps the last network-config, as netplan's file does.
const networkFile = "/var/lib/cloud/data/network-config"

// applySeed does what cloud-init does at a boot. Everything that fails is an
// error in the log, and the rest goes on. What belongs after the services is
// in the function that it returns.
func (m *machine) applySeed(ctx context.Context) (after func()) {
	after = func() {}
	files, err := readDisc(seedDevice)
	if errors.Is(err, fs.ErrNotExist) {
		m.withoutDisc()
		return after
	}
	if err != nil {
		m.log.Error("seed", "error", err)
		return after
	}
	var user userData
	var meta metaData
	var network networkConfig
	for name, into := range map[string]any{"user-data": &user, "meta-data": &meta, "network-config": &network} {
		text, ok := files[name]
		if !ok && name != "network-config" {
			m.log.Error("seed: a file is missing", "file", name)
		}
		if name == "user-data" && ok && !bytes.HasPrefix(text, []byte("#cloud-config")) {
			m.log.Error("seed: the user data is no #cloud-config; it is ignored")
			continue
		}
		unknown, err := decode(text, into)
		if unknown != nil {
			m.log.Error("seed: not all of it is known here", "file", name, "error", unknown)
		}
		if err != nil {
			m.log.Error("seed: a file cannot be read", "file", name, "error", err)
		}
	}
	m.complain("seed: network", configureNetwork(network), m.remember(networkFile, files["network-config"], 0o600))
	m.runCommands(ctx, "bootcmd", user.EarlyCommands)
	previous, _ := os.ReadFile(instanceFile)
	if meta.InstanceID != "" && strings.TrimSpace(string(previous)) == meta.InstanceID {
		m.complain("seed: hostname", keepHostname(apply.Here(m.log))) // once-only work was done in an earlier boot
		return after
	}
	m.applyOnce(user, meta)
	m.complain("seed: remember the instance", m.remember(instanceFile, []byte(meta.InstanceID+"\n"), 0o644))
	return func() { m.runCommands(ctx, "runcmd", user.Commands) }
}

// withoutDisc is a boot whose disc was taken out: what an earlier one made of
// it is on the disk, and so is the network's configuration.
func (m *machine) withoutDisc() {
	text, err := os.ReadFile(networkFile)
	if errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("there is no seed disc, and never was: the machine has no address, and nobody can log in")
		return
	}
	var network networkConfig
	if err == nil {
		_, err = decode(text, &network)
	}
	if err == nil {
		err = configureNetwork(network)
	}
	m.complain("the network of an earlier boot", err)
	m.complain("hostname", keepHostname(apply.Here(m.log)))
}

// complain logs errors.
func (m *machine) complain(what string, errs ...error) {
	for _, err := range errs {
		if err != nil {
			m.log.Error(what, "error", err)
		}
	}
}

func (m *machine) runCommands(ctx context.Context, what string, entries []any) {
	for _, entry := range entries {
		argv, err := commandOf(entry)
		if err == nil {
			_, err = m.children.run(exec.CommandContext(ctx, argv[0], argv[1:]...))
		}
		m.complain("seed: "+what, err)
	}
}

// applyOnce does the work of an instance's first boot, in cloud-init's order:
// files, hostname, users, keys.
func (m *machine) applyOnce(user userData, meta metaData) {
	target := apply.Here(m.log)
	for _, f := range user.Files {
		m.complain("seed: write_files", writeSeedFile(target, f))
	}
	name := user.Hostname
	if name == "" {
		name, _, _ = strings.Cut(meta.LocalHostname, ".")
	}
	if !user.PreserveHostname && name != "" {
		m.complain("seed: hostname", target.SetHostname(name))
	} else {
		m.complain("seed: hostname", keepHostname(target))
	}
	users, unknown := user.users()
	m.complain("seed: users", unknown...)
	err := target.AddUsers(users)
	if errors.Is(err, apply.ErrNoSudo) {
		err = fmt.Errorf("%w: install sudo where the simulated host runs", err)
	}
	m.complain("seed: users", err)
	if len(user.AuthorizedKeys) > 0 {
		owner := "root"
		if len(users) > 0 {
			owner = users[0].Name
		}
		m.complain("seed: ssh_authorized_keys", target.Authorize(owner, user.AuthorizedKeys))
	}
	m.complain("seed: ssh_keys", m.installHostKeys(target, user))
	if len(user.Packages) > 0 || user.PackageUpdate {
		m.log.Error("seed: packages cannot be installed in a simulated machine", "packages", fmt.Sprint(user.Packages))
	}
	if on, _ := user.PasswordLogin.(bool); on {
		m.log.Error("seed: ssh_pwauth: a simulated machine lets nobody in by password")
	}
}

// remember keeps what the next boot needs.
func (m *machine) remember(path string, data []byte, mode os.FileMode) error {
	return apply.Here(m.log).WriteFile(apply.File{Path: path, Data: data, Mode: mode})
}

func writeSeedFile(target apply.Machine, f seedFile) error {
	mode := uint64(0o644)
	if f.Permissions != "" {
		var err error
		if mode, err = strconv.ParseUint(strings.TrimPrefix(f.Permissions, "0o"), 8, 32); err != nil {
			return fmt.Errorf("%s: permissions %q: %w", f.Path, f.Permissions, err)
		}
	}
	if f.Owner != "" && f.Owner != "root:root" && f.Owner != "root" {
		return fmt.Errorf("%s: owner %q is not known here", f.Path, f.Owner)
	}
	data, err := f.data()
	if err != nil {
		return err
	}
	if f.Append {
		before, err := os.ReadFile(f.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		data = append(before, data...)
	}
	return target.WriteFile(apply.File{Path: f.Path, Data: data, Mode: os.FileMode(mode)})
}

// keepHostname names the machine by what an earlier boot wrote.
func keepHostname(target apply.Machine) error {
	text, err := os.ReadFile("/etc/hostname")
	if err != nil {
		return err
	}
	return target.SetHostname(strings.TrimSpace(string(text)))
}

// installHostKeys writes the SSH server's keys; without any in the seed the
// machine makes its own.
func (m *machine) installHostKeys(target apply.Machine, user userData) error {
	if len(user.HostKeys) > 0 {
		return target.InstallHostKeys(user.HostKeys)
	}
	_, err := m.children.run(exec.Command("/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key"))
	return err
}

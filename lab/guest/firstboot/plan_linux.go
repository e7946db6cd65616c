package firstboot

import (
	"fmt"
	"io/fs"
	"strconv"

	"github.com/hashicorp/go-multierror"

	"l4lab/lab/guest/seed"
	"l4lab/lab/guest/seed/apply"
)

// plan is what a seed asks for, found to be possible before anything changes.
type plan struct {
	hostname       string
	users          []apply.User
	files          []apply.File
	hostKeys       map[string]string
	deleteHostKeys bool
	networks       []apply.File
}

func planOf(c seed.Contents) (plan, error) {
	u := c.UserData
	p := plan{hostname: u.Hostname, hostKeys: u.HostKeys, deleteHostKeys: u.DeleteHostKeys}
	var errs *multierror.Error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			errs = multierror.Append(errs, fmt.Errorf(format, args...))
		}
	}
	want(c.MetaData.InstanceID != "", "it has no instance id")
	want(u.Hostname != "" || u.PreserveHostname, "it has no hostname")
	want(u.HostKeys[seed.HostKeyPrivate] != "", "it has no host key %s, without which nobody can tell who answers", seed.HostKeyPrivate)
	want(!u.PasswordLogin, "it lets users in by password, which the lab's images do not")
	want(!u.PackageUpdate, "it updates packages, for which a lab has no way out")
	if u.PreserveHostname {
		p.hostname = ""
	}
	for _, user := range u.Users {
		want(user.Name != seed.Root || !u.DisableRoot, "it lets root in and keeps it out")
		p.users = append(p.users, userOf(user))
	}
	for _, f := range u.Files {
		mode, err := strconv.ParseUint(f.Permissions, 8, 9)
		want(err == nil, "file %s: permissions %q are no octal digits up to 0777", f.Path, f.Permissions)
		p.files = append(p.files, apply.File{Path: f.Path, Data: []byte(f.Content), Mode: fs.FileMode(mode)})
	}
	for _, argv := range u.BootCommands {
		want(len(argv) > 0 && argv[0] != "", "a boot command has no program")
	}
	networks, err := networkFiles(c.NetworkConfig)
	if err != nil {
		errs = multierror.Append(errs, err)
	}
	p.networks = networks
	return p, errs.ErrorOrNil()
}

func userOf(u seed.User) apply.User {
	user := apply.User{Name: u.Name, Shell: u.Shell, LockPassword: u.LockPassword, AuthorizedKeys: u.AuthorizedKeys}
	if u.Sudo != "" {
		user.Sudo = []string{u.Sudo}
	}
	return user
}

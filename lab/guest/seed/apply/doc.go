// Package apply makes of a Linux machine what a seed says of it, as far as that
// is a matter of files: its name, its users and who may log in as them, its SSH
// server's keys, and files. What reads the seed decides what of it is known and
// when it counts: lab/guest/firstboot in the lab's own images, and the simulated
// machines' stand-in for cloud-init.
//
//	m := apply.Here(log)
//	err := m.SetHostname("be3")
//	err = m.AddUsers([]apply.User{{Name: "root", LockPassword: true, AuthorizedKeys: keys}})
//
// Each call looks first, changes only what is otherwise, and logs each change in
// one line, which never holds a file's content. Files appear whole, so that a
// call that was killed is repaired by making it again. Root may be any folder,
// for tests.
//
// Sources: passwd(5), shadow(5), group(5), sshd(8), sudoers(5), and cloud-init's
// modules set_hostname, users_groups, ssh and write_files (22.4).
package apply

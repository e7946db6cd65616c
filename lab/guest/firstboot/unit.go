package firstboot

// What an image has for systemd to run l4lab-firstboot in each boot: the unit, and
// where it expects the program.
const (
	UnitName = "l4lab-firstboot.service"
	Program  = "/usr/lib/l4lab/firstboot"
)

// Unit comes before all that reads what it writes: networkd, which then gives
// the interface its address at once, and sshd, which refuses to start without a
// host key. None of these needs its success, so that a machine without a seed
// still boots. It has no default dependencies, since they would have it wait for
// udev's devices and more that it does not need.
const Unit = `[Unit]
Description=Make of this image the machine that its seed speaks of
DefaultDependencies=no
RequiresMountsFor=/etc /var/lib /usr/lib/l4lab
After=systemd-remount-fs.service systemd-sysusers.service
Before=network-pre.target systemd-networkd.service ssh.service ssh.socket shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=` + Program + ` firstboot
StandardOutput=journal+console
StandardError=journal+console
TimeoutStartSec=5min

[Install]
WantedBy=multi-user.target
`

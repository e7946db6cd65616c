package netnsguests

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

const tickUnit = `[Unit]
Description=Writes once and stays
[Service]
Type=simple
ExecStart=/bin/sh -c 'echo started >> /var/lib/tick; exec sleep 1000'
Restart=on-failure
[Install]
WantedBy=multi-user.target
`

func TestALinuxMachineConfiguresItselfFromItsSeedAndComesBackAfterARestart(t *testing.T) {
	r := newRig(t, "tgl", nil)
	r.lan()
	r.start(r.linux("be3", "20.1.1.30", "runcmd:\n  - echo once >> /root/once\n"))
	for _, c := range []struct{ name, line, want string }{
		{"it has the seed's name", "hostname", "be3"},
		{"its init is the first process", "cat /proc/1/comm | head -c 4; ps -p 1 >/dev/null && echo", "gues"},
		{"it does not see this machine's folders", "ls /root /home 2>/dev/null; ls /", "bin"},
		{"its work of the first boot is done", "cloud-init status --wait", "status: done"},
		{"what is not its network's it cannot set", "echo 1 > /proc/sys/kernel/panic || echo refused", "refused"},
		{"its network's settings it can", "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore && echo set", "set"},
		{"it has a bpf file system of its own", "stat -f -c %T /sys/fs/bpf", "bpf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if out := r.sh("20.1.1.30", c.line); !strings.Contains(out, c.want) {
				t.Errorf("%s printed %q, expected %q in it", c.line, out, c.want)
			}
		})
	}
	if _, err := r.trySh("20.1.1.30", "cat > /etc/systemd/system/tick.service", []byte(tickUnit)); err != nil {
		t.Fatal(err)
	}
	if out := r.sh("20.1.1.30", "systemctl daemon-reload && systemctl enable --now tick && systemctl is-active tick && systemctl show -p MainPID,ActiveState tick"); !strings.Contains(out, "ActiveState=active") {
		t.Fatalf("the unit does not run: %s", out)
	}
	bootID := r.sh("20.1.1.30", "cat /proc/sys/kernel/random/boot_id")
	// labctl takes the disc out after set-up.
	if err := os.Remove(filepath.Join(r.dir, "be3.iso")); err != nil {
		t.Fatal(err)
	}
	// The way in goes with the machine, often before the command's exit code came.
	var cut *ssh.ExitMissingError
	if out, err := r.trySh("20.1.1.30", "touch /run/gone; systemctl reboot", nil); err != nil && !errors.As(err, &cut) {
		t.Fatalf("systemctl reboot: %v\n%s", err, out)
	}
	r.await("gone down", func() bool { return r.State("be3").Heartbeat != heartbeatHealthy })
	r.awaitHealthy("be3")
	if again := r.sh("20.1.1.30", "cat /proc/sys/kernel/random/boot_id"); again == bootID {
		t.Errorf("two boots have the id %s", again)
	}
	if out := r.sh("20.1.1.30", "cat /var/lib/tick /root/once; ls /run/gone; systemctl is-enabled tick; systemctl is-active tick; hostname"); strings.Count(out, "started") != 2 ||
		strings.Count(out, "once") != 1 || !strings.Contains(out, "enabled\nactive\nbe3") || !strings.Contains(out, "No such file") {
		t.Errorf("after the restart: %s", out)
	}
}

package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"
)

// epoch is the time of what has no time of its own, so that it does not differ
// from build to build: the release of Debian 12.
const epoch = "1686355200"

// disk makes the file system, and of it the disk: without a partition table,
// since nothing boots from it by firmware.
func (b *builder) disk(ctx context.Context) error {
	raw := filepath.Join(b.scratch, "disk.raw")
	id := uuid.NewSHA1(uuid.NameSpaceOID, []byte(b.image.Recipe)).String()
	err := runLogged(ctx, b.Log, []string{"E2FSPROGS_FAKE_TIME=" + epoch},
		"mke2fs", "-q", "-t", "ext4", "-L", "l4lab", "-U", id,
		// All of the disk for root, room for files of 64 kB on average, and nothing
		// left for the machine to initialise in the background.
		"-m", "0", "-i", "65536", "-J", "size=16", "-E", "lazy_itable_init=0,lazy_journal_init=0,hash_seed="+id,
		"-d", b.root, raw, fmt.Sprintf("%dM", b.DiskMB))
	if err != nil {
		return err
	}
	if _, err := run(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, filepath.Join(b.work, diskFile)); err != nil {
		return err
	}
	return os.Remove(raw)
}

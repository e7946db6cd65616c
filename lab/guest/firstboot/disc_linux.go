package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"l4lab/lab/guest/seed"
)

// ErrNoDisc says that no block device holds a seed.
var ErrNoDisc = errors.New("no block device has the volume label " + seed.Label)

// lookAgain is the time between two looks. A medium that is put into a drive
// appears as no new file, so that there is nothing else to wait on.
const lookAgain = 50 * time.Millisecond

// findDisc waits for the block device with the seed's label. It reads the
// devices themselves: udev's links come later, or never when udev has no rule for them.
func (b Boot) findDisc(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, b.Wait)
	defer cancel()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for waited := false; ; waited = true {
		path, seen := b.look()
		if path != "" {
			return path, nil
		}
		if !waited {
			b.Log.Info("waiting for the seed's disc", "limit", b.Wait, "seen", seen)
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%w after %s: %s", ErrNoDisc, b.Wait, seen)
		case <-again.C:
		}
	}
}

// look looks at each block device once. seen says what is there.
func (b Boot) look() (path, seen string) {
	devices, err := os.ReadDir(b.Devices)
	if err != nil {
		return "", err.Error()
	}
	var notes []string
	for _, d := range devices {
		size, err := os.ReadFile(filepath.Join(b.Devices, d.Name(), "size"))
		if err == nil && strings.TrimSpace(string(size)) == "0" {
			continue // a loop device of nothing, a drive without a medium
		}
		node := filepath.Join(b.Nodes, strings.ReplaceAll(d.Name(), "!", "/"))
		label, err := labelOf(node)
		switch {
		case err != nil:
			notes = append(notes, err.Error())
		case label == seed.Label:
			return node, ""
		default:
			notes = append(notes, fmt.Sprintf("%s (%s)", node, label))
		}
	}
	if len(notes) == 0 {
		return "", "there is none with a medium in " + b.Devices
	}
	return "", "looked at " + strings.Join(notes, ", ")
}

// labelOf returns the volume label of a device.
func labelOf(node string) (string, error) {
	device, err := os.Open(node)
	if err != nil {
		var reason *fs.PathError
		if errors.As(err, &reason) {
			err = reason.Err
		}
		return "", fmt.Errorf("%s (%w)", node, err)
	}
	defer device.Close()
	label, err := seed.VolumeLabel(device)
	if err != nil {
		return "no ISO 9660 volume", nil
	}
	return label, nil
}

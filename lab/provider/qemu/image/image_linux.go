package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"l4lab/lab/state"
	"l4lab/topology"
)

// Image is a disk that machines start from, and how they start from it.
type Image struct {
	// Name is what topologies and users call it; ID is its folder in the store:
	// the name and the beginning of Recipe.
	Name string `json:"name"`
	ID   string `json:"id"`
	// Recipe is the SHA-256 of what it was made of: a recipe or an imported file.
	Recipe string      `json:"recipe"`
	OS     topology.OS `json:"os"`
	// Disk is the path of a read-only qcow2 file without a backing file.
	Disk string `json:"disk"`
	// Kernel, Initrd and Append are for a direct kernel boot; without a kernel the
	// firmware boots the disk.
	Kernel string `json:"kernel,omitempty"`
	Initrd string `json:"initrd,omitempty"`
	Append string `json:"append,omitempty"`
	// Drivers is an archive of drivers that follows Initrd where firmware boots
	// what Export writes.
	Drivers string `json:"drivers,omitempty"`
	// Firmware is what boots an image without a kernel of its own.
	Firmware Firmware `json:"firmware,omitempty"`
	// Source is the checksum of the file that was imported.
	Source string `json:"source,omitempty"`
	// SHA256 is the checksum of the disk.
	SHA256 string `json:"sha256"`
	// Packages are the versions of the distribution's packages in a built image.
	Packages  map[string]string `json:"packages,omitempty"`
	FirstBoot FirstBoot         `json:"firstBoot"`
	// Size is what the image takes on the host, in bytes.
	Size    int64     `json:"size"`
	Created time.Time `json:"created"`
}

// Firmware is what starts a machine from its disk.
type Firmware string

const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// FirstBoot is what in an image reads the seed.
type FirstBoot string

const (
	// L4Lab is the first-boot program of this project.
	L4Lab FirstBoot = "l4lab"
	// CloudInit is cloud-init, which cloud images bring.
	CloudInit FirstBoot = "cloud-init"
	// AnswerFile is Windows' own set-up, after sysprep.
	AnswerFile FirstBoot = "answer file"
)

// Files of an image's folder.
const (
	recordFile   = "image.json"
	diskFile     = "disk.qcow2"
	kernelFile   = "vmlinuz"
	initrdFile   = "initrd"
	driversFile  = "drivers"
	manifestFile = "files.txt"
)

// Store is the folder of images.
type Store struct{ Dir string }

// EnvDir names the store's folder in place of the default.
const EnvDir = "LABCTL_IMAGE_DIR"

// DefaultStore returns the store of $LABCTL_IMAGE_DIR, else of /var/cache for
// root, else of the user's cache.
func DefaultStore() (Store, error) {
	dir := os.Getenv(EnvDir)
	switch {
	case dir != "":
	case os.Geteuid() == 0:
		dir = "/var/cache/l4lab/images"
	default:
		cache, err := os.UserCacheDir()
		if err != nil {
			return Store{}, fmt.Errorf("find the folder of images: %w; name one with %s", err, EnvDir)
		}
		dir = filepath.Join(cache, "l4lab", "images")
	}
	dir, err := filepath.Abs(dir)
	return Store{dir}, err
}

// NotFoundError says that the store has no image of a name.
type NotFoundError struct{ Name, Dir string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("there is no image %q in %s; make one with labctl image build or import", e.Name, e.Dir)
}

func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$`)

func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("%q is no name of an image: expected 1 to 64 small letters, digits, dots and dashes", name)
	}
	return nil
}

// idDigits is how much of a hash is in an ID.
const idDigits = 12

func imageID(name, hash string) string { return name + "-" + hash[:idDigits] }

// List returns the images by name, the newest of a name first.
func (s Store) List() ([]Image, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var images []Image
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		i, err := s.read(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile, or no image's folder
		}
		if err != nil {
			return nil, err
		}
		images = append(images, i)
	}
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), b.Created.Compare(a.Created), strings.Compare(a.ID, b.ID))
	})
	return images, nil
}

// Get returns the newest image of a name, or the one whose ID it is; a
// *NotFoundError when there is none.
func (s Store) Get(name string) (Image, error) {
	found, err := s.named(name)
	if err != nil {
		return Image{}, err
	}
	return found[0], nil
}

// named returns the images of a name or ID, at least one.
func (s Store) named(name string) ([]Image, error) {
	images, err := s.List()
	if err != nil {
		return nil, err
	}
	found := slices.DeleteFunc(images, func(i Image) bool { return i.Name != name && i.ID != name })
	if len(found) == 0 {
		return nil, &NotFoundError{name, s.Dir}
	}
	return found, nil
}

// read returns the image of a folder. Paths in image.json are relative to its folder, which may be moved.
func (s Store) read(id string) (Image, error) {
	var i Image
	dir := filepath.Join(s.Dir, id)
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(data, &i); err != nil {
		return i, fmt.Errorf("read image %s: %s: %w; remove the folder and make the image again", id, filepath.Join(dir, recordFile), err)
	}
	i.ID = id
	for _, p := range []*string{&i.Disk, &i.Kernel, &i.Initrd, &i.Drivers} {
		if *p != "" {
			*p = filepath.Join(dir, filepath.Base(*p))
		}
	}
	return i, nil
}

// publish writes the record and makes a finished folder an image of the store.
func (s Store) publish(work string, i Image) (Image, error) {
	sum, err := hashFile(filepath.Join(work, diskFile))
	if err != nil {
		return Image{}, err
	}
	i.ID, i.SHA256, i.Created = imageID(i.Name, i.Recipe), sum, time.Now().UTC().Truncate(time.Second)
	i.Disk = diskFile
	entries, err := os.ReadDir(work)
	if err != nil {
		return Image{}, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return Image{}, err
		}
		i.Size += info.Size()
		// No machine writes to what others rest on, by accident either.
		if err := os.Chmod(filepath.Join(work, e.Name()), 0o444); err != nil {
			return Image{}, err
		}
	}
	data, err := json.MarshalIndent(i, "", "\t")
	if err != nil {
		return Image{}, err
	}
	if err := state.WriteFile(filepath.Join(work, recordFile), append(data, '\n'), 0o444); err != nil {
		return Image{}, err
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return Image{}, err
	}
	if err := os.Rename(work, filepath.Join(s.Dir, i.ID)); err != nil {
		return Image{}, fmt.Errorf("store image %s: %w", i.ID, err)
	}
	return s.read(i.ID)
}

// workFolder makes the folder that becomes an image. Those that a killed labctl
// left are removed first; the caller holds the name's lock.
func (s Store) workFolder(name string) (string, error) {
	left, err := filepath.Glob(filepath.Join(s.Dir, ".new-"+name+"-*"))
	if err != nil {
		return "", err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return "", fmt.Errorf("remove what an earlier labctl left: %w", err)
		}
	}
	return os.MkdirTemp(s.Dir, ".new-"+name+"-*")
}

// InUseError says that disks of machines rest on an image.
type InUseError struct {
	ID       string
	Overlays []string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("image %s is in use: %s; take the lab down first", e.ID, strings.Join(e.Overlays, ", "))
}

// Remove removes the images of a name, or the one of an ID, unless a disk rests
// on one of them: then none is removed and the error is an *InUseError.
func (s Store) Remove(ctx context.Context, name string) error {
	found, err := s.named(name)
	if err != nil {
		return err
	}
	release, err := s.lock(ctx, found[0].Name)
	if err != nil {
		return err
	}
	defer release()
	for _, i := range found {
		users, err := overlays(filepath.Join(s.Dir, i.ID))
		if err != nil {
			return fmt.Errorf("remove image %s: %w", i.ID, err)
		}
		if len(users) > 0 {
			return &InUseError{i.ID, users}
		}
	}
	for _, i := range found {
		// Out of sight first: half an image is none.
		gone := filepath.Join(s.Dir, ".new-"+i.Name+"-gone-"+i.Recipe[:idDigits])
		if err := os.Rename(filepath.Join(s.Dir, i.ID), gone); err != nil {
			return fmt.Errorf("remove image %s: %w", i.ID, err)
		}
		if err := os.RemoveAll(gone); err != nil {
			return fmt.Errorf("remove image %s: %w", i.ID, err)
		}
	}
	return nil
}

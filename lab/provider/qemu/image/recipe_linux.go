package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Recipe is what an image is made of. It is data, all of it in the hash that
// names the image: what is not here makes no difference between two builds but
// the versions of packages, which the image records.
type Recipe struct {
	Name  string
	Suite string
	// Mirror is where packages come from and Security where their security updates
	// do, unless BuildOptions name others.
	Mirror   string `json:"-"`
	Security string `json:"-"`
	// Packages are installed beside the essential ones, without those they only
	// recommend; files whose path matches Exclude are left out of all packages.
	Packages []string
	Exclude  []string
	// Kernel is the package that depends on the current kernel. It is unpacked,
	// not installed: the distribution's initrd takes minutes to make.
	Kernel string
	// Modules are the folders of the kernel's modules that are kept, below
	// "kernel"; Initrd are the modules that the root file system needs, which are
	// loaded in this order after those they depend on.
	Modules []string
	Initrd  []string
	// Drivers are further modules that are needed where firmware boots the disk, on
	// machines other than this project's own, by the name of the list that Init
	// reads them from. A direct kernel boot has none of them.
	Drivers map[string][]string
	// Init is the program of the initrd, a script of busybox's shell.
	Init string
	// Files are placed in the image, 0644, by path.
	Files map[string]string
	// Mask are units that never start, Enable those that multi-user.target wants;
	// no others are enabled. Remove are patterns of what is left out at the end.
	Mask, Enable, Remove []string
	// MaskAll are folders of the distribution's whose files are all masked, with
	// the administrator's folder where that is done.
	MaskAll map[string]string
	// Append is the kernel's command line.
	Append string
	// DiskMB is the size of the disk as the machine sees it.
	DiskMB int
	// FirstBootVersion is counted up when the first-boot program changes so that
	// images with an older one must be built anew.
	FirstBootVersion int
	// Version is counted up when the code that follows recipes changes so.
	Version int
}

// recipeVersion is the Version of recipes for this code.
const recipeVersion = 2

// Hash is the SHA-256 of the recipe.
func (r Recipe) Hash() string {
	data, err := json.Marshal(r) // of strings and numbers, maps sorted
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

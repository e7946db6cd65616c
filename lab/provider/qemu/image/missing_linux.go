package image

import "slices"

// MissingTools returns the Debian packages that a build needs and this machine lacks.
func MissingTools() []string {
	var missing []string
	for tool, pkg := range buildTools {
		if _, err := lookPath(tool); err != nil {
			missing = append(missing, pkg)
		}
	}
	slices.Sort(missing)
	return missing
}

// Package firstboot is what runs early in each boot of the lab's own Linux
// images: it finds the seed's disc, reads it strictly, and makes of the image
// the machine that it speaks of. It takes the place of cloud-init, which costs an
// emulated machine more time than the rest of its boot.
//
// A seed has an instance id, which follows from its content. One that was
// applied before is passed over but for its boot commands; another is applied as
// a whole. The id is written last, after all else is on the disk: a boot that
// was cut off, or in which something failed, is made good by the next. After a
// seed was applied as a whole, a boot without any disc is a boot like any other.
//
// Each change is a line in the log, and none shows what a file holds. Nothing
// here is reason to stop a boot: what goes wrong is the unit's failure.
package firstboot

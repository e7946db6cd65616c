package main

import (
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"l4lab/lab/provider/qemu/image"
	"l4lab/topology"
)

func (a *app) imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Make, export, list and remove the disks that virtual machines of the qemu provider start from",
		Long: `Make, export, list and remove the disks that virtual machines of the qemu provider start
from. They lie in $` + image.EnvDir + `, else in /var/cache/l4lab/images for root and
in the user's cache for others.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.imageBuildCommand(), a.imageImportCommand(), a.imageExportCommand(), a.imageListCommand(), a.imageRemoveCommand())
	return cmd
}

func (a *app) imageBuildCommand() *cobra.Command {
	var (
		o       image.BuildOptions
		output  string
		verbose bool
	)
	cmd := &cobra.Command{
		Use:   "build debian",
		Short: "Build the Debian image with mmdebstrap, unless it is there already; needs root",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			recipe := image.Debian()
			if args[0] != recipe.Name {
				return usageError{fmt.Errorf("there is no recipe %q; there is %s", args[0], recipe.Name)}
			}
			if o.FirstBoot == "" {
				var err error
				if o.FirstBoot, err = firstBoot(); err != nil {
					return err
				}
			}
			if verbose {
				o.Log = a.stderr
			}
			return a.withStore(output, func(s image.Store) (image.Image, error) { return s.Build(cmd.Context(), recipe, o) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.FirstBoot, "first-boot", "", "path of the program that applies the seed (default: l4lab-firstboot beside labctl)")
	flags.StringVar(&o.Mirror, "mirror", "", "where packages come from (default: http://deb.debian.org/debian)")
	flags.StringVar(&o.Security, "security-mirror", "", "where security updates come from (default: http://deb.debian.org/debian-security, none with --mirror)")
	flags.BoolVarP(&verbose, "verbose", "v", false, "print what mmdebstrap writes on standard error")
	outputFlag(flags, &output)
	return cmd
}

func (a *app) imageImportCommand() *cobra.Command {
	var (
		o                        image.ImportOptions
		system, firmware, output string
	)
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import a disk: qcow2, raw or VHDX",
		Long: `Import a disk in the format qcow2, raw or VHDX, which its content tells. What
brings a machine to its seed must be in it: cloud-init, or cloudbase-init on Windows.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.OS, o.Firmware = topology.OS(system), image.Firmware(firmware)
			return a.withStore(output, func(s image.Store) (image.Image, error) { return s.Import(cmd.Context(), args[0], o) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Name, "name", "", "the image's name (default: the file's, up to its first dot)")
	flags.StringVar(&o.SHA256, "sha256", "", "the checksum that the file must have")
	flags.Var(choose(&system, string(topology.Linux), string(topology.Windows)), "os", "linux or windows")
	flags.Var(choose(&firmware, string(image.BIOS), string(image.UEFI)), "firmware", "what boots it: bios or uefi")
	outputFlag(flags, &output)
	return cmd
}

func (a *app) imageExportCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "export NAME FILE",
		Short: "Write an image as a disk that UEFI firmware boots, for Hyper-V or elsewhere",
		Long: `Write an image as a disk that UEFI firmware boots by itself, with the kernel in a
system partition. A VHDX is what provider hyperv takes as
providers.hyperv.images.linux.file, with secureBoot: false beside it: the kernel
bears no signature. FILE must not be there yet.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := image.DefaultStore()
			if err != nil {
				return err
			}
			i, err := s.Get(args[0])
			if err != nil {
				return err
			}
			to := image.Format(format)
			if to == "" {
				to = image.FormatOf(args[1])
			}
			started := time.Now()
			if err := image.Export(cmd.Context(), i, args[1], to); err != nil {
				return err
			}
			st, err := os.Stat(args[1])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%s: %s of %s, %d MB, written in %s\n", args[1], to, i.ID, st.Size()>>20, time.Since(started).Round(100*time.Millisecond))
			return err
		},
	}
	cmd.Flags().Var(choose(&format, "", string(image.VHDX), string(image.QCOW2), string(image.Raw)), "format", "vhdx (dynamic), qcow2 or raw (default: what FILE's name says, else vhdx)")
	return cmd
}

// withStore makes an image and prints it.
func (a *app) withStore(output string, make func(image.Store) (image.Image, error)) error {
	s, err := image.DefaultStore()
	if err != nil {
		return err
	}
	started := time.Now()
	i, err := make(s)
	if err != nil {
		return err
	}
	if output == "json" {
		return writeJSON(a.stdout, i)
	}
	had := "made in " + time.Since(started).Round(100*time.Millisecond).String()
	if i.Created.Before(started.Add(-time.Second)) {
		had = "there since " + i.Created.Local().Format(time.DateTime)
	}
	_, err = fmt.Fprintf(a.stdout, "%s: %s, %d MB, %s\n", i.ID, i.OS, i.Size>>20, had)
	return err
}

func (a *app) imageListCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "list", Short: "List the images, the newest of a name first", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := image.DefaultStore()
			if err != nil {
				return err
			}
			images, err := s.List()
			if err != nil {
				return err
			}
			if output == "json" {
				if images == nil {
					images = []image.Image{}
				}
				return writeJSON(a.stdout, images)
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tID\tOS\tBOOT\tSEED BY\tMB\tCREATED")
			for _, i := range images {
				boot := string(i.Firmware)
				if i.Kernel != "" {
					boot = "kernel"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", i.Name, i.ID, i.OS, boot, i.FirstBoot, i.Size>>20, i.Created.Local().Format(time.DateTime))
			}
			return w.Flush()
		},
	}
	outputFlag(cmd.Flags(), &output)
	return cmd
}

func (a *app) imageRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Short: "Remove the images of a name, or the one of an ID, unless machines use them", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := image.DefaultStore()
			if err != nil {
				return err
			}
			return s.Remove(cmd.Context(), args[0])
		},
	}
}

package windows

import (
	"context"
	"fmt"
	"os"
	"strings"

	"l4lab/lab/guest"
	"l4lab/lab/powershell"
	"l4lab/lab/powershell/transfer"
)

// Uploader returns Options.Upload for a machine whose Runner carries streams: WinRM's.
func Uploader(to powershell.Runner) func(ctx context.Context, source, hash, path string) error {
	verbs := transfer.NewVerbs()
	return func(ctx context.Context, source, hash, path string) error {
		f, err := os.Open(source)
		if err != nil {
			return err
		}
		defer f.Close()
		got, err := guest.HashFile(source)
		if err != nil {
			return err
		}
		if hash != "" && !strings.EqualFold(got, hash) {
			return fmt.Errorf("%s has the SHA-256 %s, not %s: it was changed meanwhile", source, got, hash)
		}
		return transfer.Upload(ctx, to, verbs, f, path, nil)
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/onsi/ginkgo/v2/types"
)

// cleaning is how long a suite that is interrupted may take to remove its labs.
const cleaning = 2 * time.Minute

// result is the suite's report.
type result struct{ specs types.SpecReports }

// specs runs the suite with a folder's programs, focused on specs.
func (b *bench) specs(ctx context.Context, bin, name string, specs ...string) (result, error) {
	path := filepath.Join(b.dir, "report.json")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return result{}, err
	}
	limit := specLimit
	artifacts := filepath.Join(b.dir, "artifacts") // of a spec that is to fail, for once
	if b.keep != "" {
		artifacts = filepath.Join(b.keep, name)
	}
	args := []string{"-test.run", "^TestLabctl$", "-bin", bin, "-procs", "1", "-artifacts", artifacts, "-ginkgo.json-report", path}
	for i, spec := range specs {
		args = append(args, "-ginkgo.focus", " "+regexp.QuoteMeta(spec)+"$")
		if i > 0 {
			limit += time.Minute
		}
	}
	args = append(args, "-test.timeout", limit.String(), "-ginkgo.timeout", (limit - 30*time.Second).String())
	// The suite is told to stop when this thread ends, as Linux has it (prctl(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, b.suite, args...)
	cmd.Dir = filepath.Join(b.tree, "e2e")
	cmd.SysProcAttr = apart()
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = cleaning
	printed, failed := cmd.CombinedOutput()
	if b.keep != "" {
		if err := os.WriteFile(filepath.Join(b.keep, name+".log"), printed, 0o644); err != nil {
			return result{}, err
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return result{}, fmt.Errorf("the suite crashed: %w\n%s", errors.Join(failed, err), tail(printed))
	}
	var reports []types.Report
	if err := json.Unmarshal(data, &reports); err != nil || len(reports) != 1 {
		return result{}, fmt.Errorf("the suite's report cannot be read: %w", err)
	}
	return result{reports[0].SpecReports}, nil
}

func tail(text []byte) []byte {
	const most = 3000
	return text[max(0, len(text)-most):]
}

// fullText is a spec's texts without the suite's root.
func fullText(s types.SpecReport) string {
	texts := append([]string{}, s.ContainerHierarchyTexts...)
	if len(texts) > 0 {
		texts = texts[1:]
	}
	return strings.Join(append(texts, s.LeafNodeText), " ")
}

func (r result) find(spec string) (types.SpecReport, bool) {
	for _, s := range r.specs {
		if s.LeafNodeType == types.NodeTypeIt && fullText(s) == spec {
			return s, true
		}
	}
	return types.SpecReport{}, false
}

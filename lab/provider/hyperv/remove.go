package hyperv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/hashicorp/go-multierror"

	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/state"
)

// RemoveNode implements provider.Provider. The client is the host itself, which
// stays; its routes go.
func (p *Provider) RemoveNode(ctx context.Context, lab provider.Lab, name string) error {
	h, err := p.host(ctx, lab, false)
	if errors.Is(err, ErrNoHost) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if name == lab.Topology.Client.Name {
		return client{h, lab}.EnsureRoutes(ctx, nil)
	}
	return h.remove(ctx, lab, name)
}

// remove removes a node's machine with all that is its own, however far its
// making came.
func (h *host) remove(ctx context.Context, lab provider.Lab, name string) error {
	h.drop(name)
	h.disks.Lock()
	defer h.disks.Unlock()
	_, err := h.verbs.VMRemove.Run(ctx, h.runner, scripts.VMRemoveParams{
		Name: vmName(lab.Topology.Name, name), Node: name, Mark: h.mark, Folder: h.folder,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, h.errorf("remove its machine: %w", foreign(err)))
	}
	if err := os.RemoveAll(state.NodeDir(lab.Dir, name)); err != nil {
		return fmt.Errorf("%s: forget it: %w", name, err)
	}
	return nil
}

// drop ends the connections into a node's machine and forgets it.
func (h *host) drop(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ids, name)
	for key, g := range h.guests {
		if len(key) > len(name) && key[:len(name)+1] == name+" " {
			_ = g.Close()
			delete(h.guests, key)
		}
	}
}

// Destroy implements provider.Provider. What lacks the mark stays and is no error.
func (p *Provider) Destroy(ctx context.Context, lab provider.Lab) error {
	h, err := p.host(ctx, lab, false)
	if errors.Is(err, ErrNoHost) {
		return p.o.Release(ctx, lab)
	}
	if err != nil {
		return err
	}
	var errs *multierror.Error
	note := func(what string, err error) {
		if err != nil && !errors.Is(foreign(err), provider.ErrForeign) {
			errs = multierror.Append(errs, h.errorf("%s: %w", what, err))
		}
	}
	_, err = h.verbs.CaptureStop.Run(ctx, h.runner, scripts.CaptureStopParams{Mark: h.mark, Folder: h.folder})
	if !code(err, scripts.NotFound) {
		note("end the capture", err)
	}
	ours, err := h.ownsFolder(ctx)
	note("look at the lab's folder", err)
	for _, err := range h.removeAll(ctx, lab, ours) {
		if !errors.Is(err, provider.ErrForeign) {
			errs = multierror.Append(errs, err)
		}
	}
	if ours {
		_, err = h.verbs.PortProxyRemove.Run(ctx, h.runner, scripts.PortProxyRemoveParams{Folder: h.folder})
		note("remove the forwarded ports", err)
	}
	h.disks.Lock()
	_, err = h.verbs.SwitchRemove.Run(ctx, h.runner, scripts.SwitchRemoveParams{Name: switchName(lab.Topology.Name), Mark: h.mark})
	h.disks.Unlock()
	note("remove the switch", err)
	if ours {
		_, err = h.verbs.FilesRemove.Run(ctx, h.runner, scripts.FilesRemoveParams{Folder: h.folder, Mark: h.mark, Paths: []string{}})
		note("remove the lab's folder", err)
	}
	if err := errs.ErrorOrNil(); err != nil {
		return err
	}
	return multierror.Append(p.forget(ctx, h), p.o.Release(ctx, lab)).ErrorOrNil()
}

// removeAll removes every machine that bears the mark. In a folder that is the
// lab's, files and machines of its nodes' names are what a making that was cut
// off has left.
func (h *host) removeAll(ctx context.Context, lab provider.Lab, ours bool) []error {
	var names []string
	if ours {
		names = lab.Topology.NodeNames()
	}
	found, err := h.observe(ctx, lab.Topology)
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	for _, vm := range found.Machines {
		if !slices.Contains(names, vm.Node) {
			names = append(names, vm.Node)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			err := h.remove(ctx, lab, name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errs
}

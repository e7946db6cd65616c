// Package report writes what a walk-through saw as a page to read: HTML that needs
// no network, the same as Markdown, the pictures, the captures, and the record
// itself. Check says beforehand whether the folder will do.
//
//	if err := report.Check(dir); err != nil { … }
//	record, made, err := demo.Run(…)
//	err = report.Write(dir, record)
//
// The figures are the original's, redrawn from the live lab: 1 the topology, 2 the
// agent's output, 3 the two packet paths with the headers of captured packets, 4 the
// page before and after a forced refresh.
package report

import (
	"encoding/json"
	"fmt"
	"slices"

	"l4lab/bpf/inventory"
	"l4lab/lab/demo"
)

// The names of files in the folder; pictures and captures are named by content.
const (
	pageFile     = "index.html"
	markdownFile = "README.md"
	recordFile   = "record.json"
	topologyFile = "topology.svg"
)

// Write renders a record into a folder, whole or not at all.
func Write(dir string, r demo.Record) error {
	if err := Check(dir); err != nil {
		return err
	}
	files, err := render(r)
	if err != nil {
		return fmt.Errorf("render the report: %w", err)
	}
	return store(dir, files)
}

// render returns the report's files by name.
func render(r demo.Record) (map[string][]byte, error) {
	v, err := inventory.Take()
	if err != nil {
		return nil, err
	}
	shared, err := inventory.Shared()
	if err != nil {
		return nil, err
	}
	d := newDocument(r, v, shared)
	files := d.attachments()
	if files[pageFile], err = d.html(); err != nil {
		return nil, err
	}
	files[markdownFile] = d.markdown()
	files[recordFile], err = json.MarshalIndent(withoutPictures(r), "", "  ")
	return files, err
}

// withoutPictures leaves out what stands in files beside the record.
func withoutPictures(r demo.Record) demo.Record {
	r.Steps = slices.Clone(r.Steps)
	for i, s := range r.Steps {
		r.Steps[i].Blocks = slices.Clone(s.Blocks)
		for j, b := range s.Blocks {
			if b.Image != nil {
				image := *b.Image
				image.PNG = nil
				r.Steps[i].Blocks[j].Image = &image
			}
		}
	}
	return r
}

// attachments are the pictures and captures.
func (d document) attachments() map[string][]byte {
	files := map[string][]byte{topologyFile: []byte(d.Drawing.SVG)}
	for _, p := range d.Paths {
		files[p.Figure.File] = []byte(p.Figure.SVG)
		if len(p.Pcapng) > 0 {
			files[p.Capture] = p.Pcapng
		}
	}
	for _, s := range d.Steps {
		for _, b := range s.Shown {
			if b.Figure != nil {
				files[b.Figure.File] = b.Figure.PNG
			}
		}
	}
	return files
}

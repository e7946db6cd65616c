package demo

import (
	"context"
	"errors"

	"l4lab/agent/api"
	"l4lab/lab"
	"l4lab/lab/capture"
	"l4lab/lab/plan"
	"l4lab/lab/probe"
	"l4lab/lab/provider"
	"l4lab/topology"
)

// Options say how to walk.
type Options struct {
	// Up is how the lab is brought up.
	Up lab.UpOptions
	// Observer is told what happens as it happens; nil: nobody is.
	Observer Observer
	// Between is called before each step but the first; its error ends the walk.
	// It is where somebody waits for a key. Nil: nobody does.
	Between func(ctx context.Context, next Step) error
	// Browser shows pages; nil: they are asked for by plain HTTP, without pictures.
	Browser Browser
	// Labctl is the version that Record.Host names.
	Labctl string
}

// Observer sees a walk's steps as they happen, in this order and from one
// goroutine: the step begins with what is known of it before (Number, Key, Title,
// Command, There), then come its blocks and checks, then it ends, complete.
type Observer interface {
	StepBegins(s Step)
	Block(b Block)
	Check(c Check)
	StepEnds(s Step)
}

// ErrNoBrowser is what Browser.Open's error matches when the client machine has none:
// the walk then goes on without pictures.
var ErrNoBrowser = errors.New("the client has no browser")

// Browser is a web browser on the client machine. One that has a method Version,
// which returns its name and version as a string once a page was opened, is named in
// Record.Host.
type Browser interface {
	// Open shows what is at the URL.
	Open(ctx context.Context, url string) (Page, error)
}

// Page is what a browser shows. Close it after its use: the demo's page asks
// again by itself every few seconds.
type Page interface {
	// Reload asks for it again over a new connection, as a forced refresh does.
	Reload(ctx context.Context) error
	Screenshot(ctx context.Context) (Image, error)
	// Text is what can be read on it, without markup.
	Text(ctx context.Context) (string, error)
	Close() error
}

// Lab is what the walk needs of a lab.
type Lab interface {
	Name() string
	Check(ctx context.Context, t topology.Topology, o lab.UpOptions) error
	Up(ctx context.Context, t topology.Topology, o lab.UpOptions) ([]plan.Step, error)
	Status(ctx context.Context) (lab.Status, error)
	MACs(ctx context.Context) (map[string]string, error)
	Agent() (*api.Client, error)
	Machine(name string) (provider.Machine, error)
	Capture(ctx context.Context, place capture.Place) (*capture.Session, error)
	Mode(ctx context.Context, service uint32, mode topology.Mode) error
	StopPage(ctx context.Context, backend string) error
	StartPage(ctx context.Context, backend string) error
	Test(ctx context.Context, o probe.Options) (probe.Report, error)
}

var _ Lab = (*lab.Lab)(nil)

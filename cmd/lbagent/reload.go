package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"l4lab/agent/config"
	"l4lab/agent/server"
	"l4lab/strictyaml"
)

// wishOf is what of a config may change while the agent runs.
func wishOf(c config.Config) server.Wish {
	d := c.Datapath()
	return server.Wish{
		Settings: server.Settings{
			Lifetimes: d.Lifetimes, NATMin: d.NATMin, NATMax: d.NATMax, EventRate: c.Events.Rate,
			VLAN:       d.VLAN,
			DrainAfter: time.Duration(c.Drain.Deadline),
		},
		Mode:     c.DefaultMode(),
		Services: c.Services,
	}
}

// follower makes the agent as its config file says, whenever that is another one.
type follower struct {
	path     string
	override func(*config.Config)
	watcher  *config.Watcher
	hangups  <-chan os.Signal
	log      *logging
	// started is the config that the agent has started with.
	started config.Config
}

// run is server.Options.Follow.
func (f *follower) run(ctx context.Context, reload func(context.Context, server.Wish) error) {
	ask := make(chan struct{})
	f.watcher.Ask = ask
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-f.hangups:
			}
			select {
			case <-ctx.Done():
				return
			case ask <- struct{}{}:
			}
		}
	}()
	f.watcher.Run(ctx, func(ctx context.Context, asked bool) { f.follow(ctx, asked, reload) })
}

// follow reads the file. One with a fault, or that the agent refuses, changes nothing.
func (f *follower) follow(ctx context.Context, asked bool, reload func(context.Context, server.Wish) error) {
	why := "it has changed"
	if asked {
		why = "SIGHUP"
	}
	log := f.log.With("file", f.path, "why", why)
	file, err := config.Load(f.path, f.override)
	if err == nil {
		err = file.Explain(reload(ctx, wishOf(file.Config)))
	}
	if err != nil {
		logFaults(log, err)
		return
	}
	f.log.set(file.Log)
	services := slog.Attr{}
	if file.Services != nil {
		services = slog.Int("services", len(file.Services))
	}
	log.Info("the config file is in place", services)
	if names := config.Restart(f.started, file.Config); len(names) > 0 {
		log.Warn("what the config file says of these is read at the start only: restart the agent", "keys", strings.Join(names, ", "))
	}
}

// logFaults logs each fault of a file that was not taken over.
func logFaults(log *slog.Logger, err error) {
	var faults strictyaml.Faults
	if !errors.As(err, &faults) {
		log.Error("the config file is not taken over", "error", err) // which says what is not as it was, if anything
		return
	}
	log.Error("the config file is not taken over: everything stays as it was", "faults", len(faults))
	for _, fault := range faults {
		log.Error("fault of the config file", "line", fault.Line, "column", fault.Column, "path", fault.Path, "fault", fault.Message)
	}
}

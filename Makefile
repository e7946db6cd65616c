# The two commands that matter: `make demo` shows the lab at work, `make test`
# runs everything. Both want root, since they make network namespaces; `make
# test` without root runs what needs none and says what it left out.

GO ?= go

# A working tree whose git cannot be asked (no git, no commit yet, a folder of
# another user) is built without the revision in its binaries.
BUILDVCS := $(shell git rev-parse --quiet --verify HEAD >/dev/null 2>&1 || echo -buildvcs=false)

.DEFAULT_GOAL := help
.PHONY: help build build-windows demo test lint generate check-generated sharing docs bench mutants clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 25

build: ## build bin/labctl, bin/lbagent and bin/l4lab-firstboot, all static, and the first two for Windows (.exe); needs Go alone
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" $(BUILDVCS) -o bin/ ./cmd/labctl ./cmd/lbagent ./cmd/l4lab-firstboot
	CGO_ENABLED=0 GOOS=windows GOARCH=amd64 $(GO) build -trimpath -ldflags "-s -w" $(BUILDVCS) -o bin/ ./cmd/labctl ./cmd/lbagent

# Go links a program's resource_windows_amd64.syso into its Windows build. The
# version is the commit's, so the resources are made and not committed.
VERSION = $(shell git describe --tags --always --dirty 2>/dev/null)

build-windows: ## build bin/labctl.exe and bin/lbagent.exe with their version resources
	GOOS= GOARCH= $(GO) run ./scripts/versioninfo -name labctl -description "A lab for layer-4 load balancing with eBPF" -version "$(VERSION)" cmd/labctl
	GOOS= GOARCH= $(GO) run ./scripts/versioninfo -name lbagent -description "A layer-4 load balancer with eBPF" -version "$(VERSION)" cmd/lbagent
	GOOS=windows GOARCH=amd64 CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" $(BUILDVCS) -o bin/ ./cmd/labctl ./cmd/lbagent

demo: build ## bring the five-machine lab up, walk through SNAT and DSR, take it down; PROVIDER=qemu on virtual machines, hyperv-sim on a simulated Hyper-V host
	$(if $(filter qemu,$(PROVIDER)),scripts/install-deps.sh qemu)
	bin/labctl demo $(if $(PROVIDER),--provider $(PROVIDER))

test: ## run the unit, data-path and end-to-end tests, installing what they need
	scripts/test.sh

# GOOS would have `go tool` build the linter itself for the other system, so it is
# built for this one and then told.
lint: ## gofmt, and vet and staticcheck for Linux and for Windows
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	GOOS=linux $(GO) vet ./...
	GOOS=windows $(GO) vet ./...
	GOOS=linux $$($(GO) tool -n staticcheck) ./...
	GOOS=windows $$($(GO) tool -n staticcheck) ./...

generate: ## compile bpf/*.c with clang-19, write the Go types, README's table of shared lines, docs/helpers.md
	scripts/install-deps.sh generate
	$(GO) generate ./bpf
	$(GO) run ./scripts/sharing -readme README.md -json bpf/inventory/sharing.json
	$(GO) run ./scripts/helpers -o docs/helpers.md

check-generated: ## fail when an eBPF object, README's table or docs/helpers.md is not what the source gives
	scripts/install-deps.sh generate
	CGO_ENABLED=0 $(GO) test -count=1 -run 'TestTheCommittedObjectsAreWhatTheSourceGives|IsCurrent$$' ./bpf ./scripts/...

sharing: ## count the eBPF source lines that both systems compile, and write them to the README
	scripts/install-deps.sh generate
	$(GO) run ./scripts/sharing -readme README.md -json bpf/inventory/sharing.json

docs: build ## write docs/helpers.md from the eBPF objects and, as root, docs/demo from a walk-through
	$(GO) run ./scripts/helpers -o docs/helpers.md
	@if [ "$$(id -u)" != 0 ]; then echo "docs: not root, so docs/demo, which takes a lab, stays as it is"; \
	else scripts/install-deps.sh browser && bin/labctl demo --fast --report docs/demo; fi

bench: build ## measure packets, throughput, programming and labs; ratios within one run
	scripts/install-deps.sh test
	scripts/bench.sh

mutants: ## break the source on purpose, one fault at a time, and have the end-to-end suite find each; MUTANTS=name,… for some
	scripts/install-deps.sh test generate
	$(GO) run ./scripts/mutants $(if $(MUTANTS),-run $(MUTANTS))

clean: ## remove what make built
	rm -rf bin cmd/*/resource_windows_amd64.syso

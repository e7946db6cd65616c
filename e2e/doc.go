// Package e2e drives labctl as a user does, on the netns provider: the built
// binaries, real namespaces, real packets. Each spec reads as a promise.
//
//	go test ./e2e                                                 # as root; about two minutes
//	go test ./e2e -v -args -ginkgo.v -ginkgo.focus 'seeded fault' # a part of it, with names
//
// Every run has a state folder and lab names of its own, so that several runs
// (and the processes of `ginkgo -p`) get on side by side. README.md lists the
// seeded faults and what catches each.
package e2e

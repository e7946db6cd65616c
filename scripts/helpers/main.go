// Command helpers writes docs/helpers.md: which helpers and map types the eBPF objects
// of each system use, and in which programs. It reads the very objects that ship,
// Linux's with cilium/ebpf and Windows' with package winvm.
//
//	helpers -o docs/helpers.md
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	output := flag.String("o", "", "file to write, standard output if none")
	flag.Parse()
	if err := run(*output); err != nil {
		fmt.Fprintln(os.Stderr, "helpers:", err)
		os.Exit(1)
	}
}

func run(output string) error {
	page, err := generate()
	if err != nil {
		return err
	}
	if output == "" {
		_, err := os.Stdout.WriteString(page)
		return err
	}
	return os.WriteFile(output, []byte(page), 0o644)
}

package netnsguests

import (
	"fmt"
	"slices"
	"strings"

	"l4lab/lab/provider/fabric"
)

// pinFolder is the bpf file system of a machine, new at each start as the pins
// of eBPF for Windows are.
const pinFolder = "/sys/fs/bpf/"

// agentCommand turns a command line of lbagent.exe into one of the Linux build
// in the machine: names of adapters, pins, pipes and files. What Windows would
// refuse becomes a program that says why and fails.
func (m *guest) agentCommand(w *windows, program string, arguments []string) ([]string, error) {
	if err := m.isAgent(program); err != nil {
		return nil, err
	}
	if complaint := m.lacks(w, arguments); complaint != "" {
		return refusal(complaint), nil
	}
	argv := []string{agentMount}
	for i := 0; i < len(arguments); i++ {
		a := arguments[i]
		name, value, given := strings.Cut(a, "=")
		if !strings.HasPrefix(a, "-") || a == "--" {
			translated, err := m.word(a)
			if err != nil {
				return nil, err
			}
			argv = append(argv, translated)
			continue
		}
		if !given && takesValue(name) && i+1 < len(arguments) {
			i++
			value, given = arguments[i], true
		}
		switch translated, keep, err := m.flag(name, value); {
		case err != nil:
			return nil, err
		case !keep:
		case given:
			argv = append(argv, name, translated)
		default:
			argv = append(argv, a)
		}
	}
	if len(arguments) > 0 && arguments[0] == "serve" && !slices.ContainsFunc(arguments, func(a string) bool { return strings.HasPrefix(a, "--state") }) {
		state, err := m.inside(`C:\ProgramData\lbagent\lbagent.state.json`)
		if err != nil {
			return nil, err
		}
		argv = append(argv, "--state", state)
	}
	return argv, nil
}

// refusal is a program that fails with a word.
func refusal(complaint string) []string {
	return []string{"/bin/sh", "-c", `printf 'lbagent: %s\n' "$1" >&2; exit 1`, "lbagent", complaint}
}

// takesValue are the flags whose values differ between the systems.
func takesValue(name string) bool {
	return slices.Contains([]string{"--device", "-d", "--interface", "--pin-dir", "--socket", "--image", "--profile", "--state", "--config"}, name)
}

// flag translates a flag's value; keep is false for what Linux has not.
func (m *guest) flag(name, value string) (translated string, keep bool, err error) {
	switch name {
	case "--image", "--profile":
		return "", false, nil
	case "--device", "-d", "--interface":
		if strings.EqualFold(value, adapterName) {
			return fabric.InterfaceName, true, nil
		}
	case "--pin-dir":
		return pinFolder + strings.Trim(strings.ReplaceAll(value, `\`, "/"), "/"), true, nil
	}
	translated, err = m.word(value)
	return translated, true, err
}

// word translates a named pipe into a socket and a path of drive C into the
// machine's.
func (m *guest) word(a string) (string, error) {
	if pipe, ok := strings.CutPrefix(strings.ToLower(a), `\\.\pipe\`); ok {
		return "/run/" + strings.ReplaceAll(pipe, `\`, "-") + ".sock", nil
	}
	if _, ok := cutDrive(a); ok {
		return m.inside(a)
	}
	return a, nil
}

// lacks says what a command needs that this Windows does not have.
func (m *guest) lacks(w *windows, arguments []string) string {
	loads := len(arguments) > 0 && arguments[0] == "serve" ||
		len(arguments) > 0 && arguments[0] == "decap" && !(len(arguments) > 1 && slices.Contains([]string{"status", "detach"}, arguments[1]))
	if !loads {
		return ""
	}
	if w.EBPF == "" {
		return "load ebpfapi.dll: the specified module could not be found: eBPF for Windows is not installed"
	}
	image, profile := valueOf(arguments, "--image"), valueOf(arguments, "--profile")
	if profile == "xdp" && w.XDP == "" {
		return "XDP for Windows is not installed, or not running yet"
	}
	if image == "" {
		return "an image is needed on Windows: --image"
	}
	if real, err := m.real(image); err == nil && isFile(real) {
		return ""
	}
	if !m.guests.options.NeedImages {
		m.log.Warn("Windows would not find the image; this guest needs none", "image", image)
		return ""
	}
	return fmt.Sprintf("load %s: the system cannot find the file specified", image)
}

func valueOf(arguments []string, flag string) string {
	for i, a := range arguments {
		if a == flag && i+1 < len(arguments) {
			return arguments[i+1]
		}
		if value, ok := strings.CutPrefix(a, flag+"="); ok {
			return value
		}
	}
	return ""
}

package ssh

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// maxCommand bounds a command line, in bytes: the login shell gets it as one
// argument, and Linux takes 128 KiB in one (MAX_ARG_STRLEN).
const maxCommand = 120 << 10

// ErrNoProgram: the guest has no program of that name.
var ErrNoProgram = errors.New("no such program in the guest")

// prelude runs in the guest before a command takes its place. It announces on
// both streams, on a line with a nonce, where the command's own output begins (a
// login shell's start-up files may have written before) and which process group
// it is, by which it can be signalled later; and it finds the program: in the
// node's folder first, then in the PATH, to which the folders of a system's
// administrator belong here.
//
// $1 is the nonce, $2 the node's folder, $3 the SSH connection's addresses (sudo
// would drop them from the environment), the rest the command.
const prelude = `l4mark=$1 l4folder=$2 SSH_CONNECTION=$3
shift 3
l4group=$$
if read -r l4stat </proc/$$/stat 2>/dev/null; then
	l4stat=${l4stat##*) }
	l4stat=${l4stat#* }
	l4stat=${l4stat#* }
	l4group=${l4stat%% *}
fi
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH SSH_CONNECTION
l4program=
case $1 in
*/*) if [ -x "$1" ] && [ ! -d "$1" ]; then l4program=$1; fi ;;
*)
	set -f
	IFS=:
	for l4dir in $l4folder $PATH; do
		if [ -x "$l4dir/$1" ] && [ ! -d "$l4dir/$1" ]; then l4program=$l4dir/$1; break; fi
	done
	unset IFS
	set +f
	;;
esac
if [ -z "$l4program" ]; then l4group=missing; fi
printf '%s %s\n' "$l4mark" "$l4group"
printf '%s %s\n' "$l4mark" "$l4group" >&2
if [ -z "$l4program" ]; then exit 127; fi
shift
exec "$l4program" "$@"`

// commandLine is what the login shell is given, and the mark that the command's
// output begins after.
func (g *Guest) commandLine(argv []string) (line, mark string, err error) {
	if len(argv) == 0 || argv[0] == "" {
		return "", "", errors.New("no command")
	}
	var nonce [12]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return "", "", err
	}
	mark = "l4lab-" + hex.EncodeToString(nonce[:])
	var b strings.Builder
	b.WriteString("exec ")
	if g.config.Sudo {
		b.WriteString("sudo -n -- ")
	}
	b.WriteString("sh -c " + quote(prelude) + " sh " + mark + " " + quote(g.config.Folder) + ` "$SSH_CONNECTION"`)
	for _, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			return "", "", fmt.Errorf("the argument %q contains a NUL byte, which no argument can", arg)
		}
		b.WriteByte(' ')
		b.WriteString(quote(arg))
	}
	if b.Len() > maxCommand {
		return "", "", fmt.Errorf("the command line has %d bytes, more than %d; give long input on standard input", b.Len(), maxCommand)
	}
	return b.String(), mark, nil
}

// quote makes one word of a POSIX shell: nothing has a meaning within single quotes.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

package ssh

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"l4lab/lab/guest"
)

// Push implements guest.Guest. What is there already, by its hash, is left
// alone. A file is sent beside its place, under a name with its hash, and takes
// the place only when it is whole; an upload that broke off is gone on with.
//
// All of it is one command in the guest, with which Push talks: an emulated
// guest needs 0.2 to 0.5 s to start one. The bytes go through gzip; a guest
// without it gets them by SFTP.
func (g *Guest) Push(ctx context.Context, f guest.File) error {
	to, err := g.path(f.Path)
	if err != nil {
		return err
	}
	g.pushing.Lock()
	defer g.pushing.Unlock()
	if err := g.push(ctx, f, to); err != nil {
		return g.errorf("push %s to %s: %w", f.Source, to, err)
	}
	return nil
}

func (g *Guest) push(ctx context.Context, f guest.File, to string) error {
	source, err := os.Open(f.Source)
	if err != nil {
		return err
	}
	defer source.Close()
	size, hash, err := hashOf(source)
	if err != nil {
		return err
	}
	if f.Hash != "" && f.Hash != hash {
		return changed(hash, f.Hash)
	}
	u := upload{guest: g, file: f, source: source, size: size, hash: hash, to: to, part: to + partInfix + hash[:16]}
	for try := 0; ; try++ {
		outcome, err := u.send(ctx)
		if err != nil {
			return err
		}
		if outcome == isThere {
			return nil
		}
		if now, err := u.hashNow(); err != nil || now != hash {
			return errors.Join(err, changed(now, hash))
		}
		if try > 0 {
			return fmt.Errorf("what arrived has SHA-256 %s, sent was %s: is the guest's disk broken?", outcome, hash)
		}
	}
}

func changed(is, was string) error {
	return fmt.Errorf("its SHA-256 is %s, expected %s: it changed meanwhile; try again", is, was)
}

// partInfix is in the name of every unfinished upload, before the hash.
const partInfix = ".l4lab-part-"

// What the guest says about an upload, each on a line.
const (
	// isThere: the file stands in its place, whole.
	isThere = "there"
	// takesGzip and takesSFTP are followed by the bytes that an earlier upload left.
	takesGzip, takesSFTP = "gzip", "sftp"
)

// argumentsScript names the arguments that upload.run passes.
const argumentsScript = `set -e
LC_ALL=C
export LC_ALL
to=$1 part=$2 hash=$3 size=$4 mode=$5 infix=$6
bytes() { echo "$(($(wc -c <"$1")))"; }
digest() { set -- $(sha256sum <"$1"); echo "$1"; }
if ! command -v sha256sum >/dev/null; then echo "the guest has no sha256sum" >&2; exit 1; fi
`

// lookScript ends when the file is there. Otherwise it removes what unfinished
// uploads of other contents left, and says how it takes the file.
const lookScript = `if [ -d "$to" ]; then echo "$to is a folder" >&2; exit 1; fi
if [ -f "$to" ] && { [ "$mode" != 755 ] || [ -x "$to" ]; } && [ "$(bytes "$to")" = "$size" ] && [ "$(digest "$to")" = "$hash" ]; then
	echo there
	exit
fi
mkdir -p "${to%/*}/"
for old in "$to$infix"*; do
	if [ "$old" != "$part" ]; then rm -f "$old"; fi
done
left=0
if [ -f "$part" ]; then left=$(bytes "$part"); fi
if ! command -v gzip >/dev/null; then echo "sftp $left"; exit; fi
echo "gzip $left"
`

// receiveScript reads on which byte to go on from, on a line, and what follows
// there. It writes by position and does not append, so that the command of a
// connection that was lost, which may end later, writes nothing else than this one.
const receiveScript = `read -r from
exec 3<>"$part"
into() {
	if why=$("$@" 2>&1 >&3); then return; fi
	case $why in *"No space left"*) rm -f "$part" ;; esac
	echo "$why" >&2
	exit 1
}
into dd if=/dev/null of="$part" bs=1 seek="$from"
into dd if=/dev/null bs=1 seek="$from"
into gzip -dc
exec 3>&-
`

// finishScript puts the file in its place if it is whole, and says its hash if
// it is not. A guest that is turned off now shall have it: sync is fsync(2).
const finishScript = `is=$(digest "$part")
if [ "$is" != "$hash" ]; then
	rm -f "$part"
	echo "$is"
	exit
fi
chmod "$mode" "$part"
sync "$part"
mv -f "$part" "$to"
sync "${to%/*}/"
echo there
`

// upload is a file on its way.
type upload struct {
	guest    *Guest
	file     guest.File
	source   *os.File
	size     int64
	hash     string
	to, part string
}

// send brings the file into its place. The outcome is isThere, or the hash of
// what arrived instead.
func (u upload) send(ctx context.Context) (outcome string, err error) {
	answers, err := u.run(ctx, lookScript+receiveScript+finishScript, u.compressed)
	if err != nil {
		return "", err
	}
	if outcome, err = answers.next(); err == nil && strings.HasPrefix(outcome, takesSFTP+" ") {
		return u.sftp(ctx)
	}
	return outcome, err
}

// run runs a script in the guest and returns its last answers. feed, when not
// nil, has its input and its answers while it runs.
func (u upload) run(ctx context.Context, script string, feed func(in io.Writer, from *answers) error) (*answers, error) {
	mode := "644"
	if u.file.Executable {
		mode = "755"
	}
	said := &answers{lines: make(chan string, 4), ended: make(chan struct{})}
	c := guest.Command{
		Argv:   []string{"sh", "-c", argumentsScript + script, "push", u.to, u.part, u.hash, strconv.FormatInt(u.size, 10), mode, partInfix},
		Stdout: said,
	}
	fed := make(chan struct{})
	close(fed)
	input, in := io.Pipe()
	if feed != nil {
		c.Stdin, fed = input, make(chan struct{})
		go func() {
			defer close(fed)
			in.CloseWithError(feed(in, said))
		}()
	}
	err := u.guest.run(ctx, "the script that takes it", c)
	close(said.ended)
	input.Close()
	<-fed
	var exit *guest.ExitError
	if !errors.As(err, &exit) {
		return said, err
	}
	why := strings.TrimSpace(exit.Stderr)
	if strings.Contains(why, "No space left on device") {
		return nil, fmt.Errorf("send it: no space left on the guest's disk (the file has %d bytes): %s; make room there", u.size, why)
	}
	return nil, fmt.Errorf("send it: exit code %d: %s", exit.Code, why)
}

// compressed answers what lookScript says.
func (u upload) compressed(in io.Writer, said *answers) error {
	line, err := said.next()
	if err != nil {
		return nil // the script's end tells why
	}
	how, bytes, _ := strings.Cut(line, " ")
	if how != takesGzip {
		said.held = line
		return nil
	}
	left, err := strconv.ParseInt(bytes, 10, 64)
	if err != nil {
		return fmt.Errorf("the guest says %q of an earlier upload: %w", line, err)
	}
	from := u.from(left)
	body, err := u.rest(from)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(in, from); err != nil {
		return nil
	}
	buffered := bufio.NewWriterSize(in, packetBytes)
	// The sending side has busy processors too.
	z, err := gzip.NewWriterLevel(buffered, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, body); err != nil {
		return err
	}
	return errors.Join(z.Close(), buffered.Flush())
}

// from is where to go on when so many bytes are there.
func (u upload) from(left int64) int64 { return max(0, min(left, u.size)-rewind) }

// rest reads the source from a byte on, and tells of the progress.
func (u upload) rest(from int64) (io.Reader, error) {
	if _, err := u.source.Seek(from, io.SeekStart); err != nil {
		return nil, err
	}
	return &progress{Reader: io.LimitReader(u.source, u.size-from), done: from, tell: func(done int64) {
		if u.guest.config.Progress != nil {
			u.guest.config.Progress(u.file, done, u.size)
		}
	}}, nil
}

// hashNow is the hash of what the source's path names now.
func (u upload) hashNow() (string, error) { return guest.HashFile(u.file.Source) }

// answers are the lines that a script prints; it prints few.
type answers struct {
	partial []byte
	held    string // the line that next returns once more
	lines   chan string
	// ended is closed once the command is over. lines never is: what a guest that
	// stood still had on the way may come after a cancelled command's end.
	ended chan struct{}
}

func (a *answers) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			a.partial = append(a.partial, b)
			continue
		}
		select {
		case a.lines <- string(a.partial):
		default:
			return 0, fmt.Errorf("the guest says more than was asked: %s", a.partial)
		}
		a.partial = nil
	}
	return len(p), nil
}

func (a *answers) next() (string, error) {
	if held := a.held; held != "" {
		a.held = ""
		return held, nil
	}
	select {
	case line := <-a.lines:
		return line, nil
	case <-a.ended:
	}
	select { // what came before the end
	case line := <-a.lines:
		return line, nil
	default:
		return "", errors.New("the guest did not say how the upload ended; try again")
	}
}

package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"l4lab/lab/guest"
)

const (
	// packetBytes and inFlight are what SFTP sends at once (the draft's 32 KiB)
	// and how many such packets wait for their answers.
	packetBytes = 32 << 10
	inFlight    = 64
	// rewind is how much of a broken upload's end is sent again: packets that
	// were in flight may have left holes there.
	rewind = inFlight * packetBytes
)

// Push implements guest.Guest. What is there already, by its hash, is left
// alone. A file is sent beside its place, under a name with its hash, and takes
// the place only when it is whole; an upload that broke off is gone on with.
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
		return fmt.Errorf("its SHA-256 is %s, expected %s: it changed meanwhile; try again", hash, f.Hash)
	}
	mode := os.FileMode(0o644)
	if f.Executable {
		mode = 0o755
	}
	if there, err := g.hashThere(ctx, to, f.Executable); err != nil || there == hash {
		return err
	}
	files, err := g.sftp(ctx)
	if err != nil {
		return err
	}
	defer files.close()
	if err := files.MkdirAll(path.Dir(to)); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	part := to + partInfix + hash[:16]
	if err := removeParts(files, to, part); err != nil {
		return err
	}
	u := upload{guest: g, files: files, file: f, source: source, size: size, to: part}
	for try := 0; ; try++ {
		if err := u.send(ctx); err != nil {
			return err
		}
		there, err := g.hashThere(ctx, part, false)
		if err != nil {
			return err
		}
		if there == hash {
			break
		}
		if err := files.Remove(part); err != nil {
			return fmt.Errorf("remove a broken upload: %w", err)
		}
		if try > 0 {
			return fmt.Errorf("what arrived has SHA-256 %s, sent was %s: is the guest's disk full or broken?", there, hash)
		}
	}
	if err := files.Chmod(part, mode); err != nil {
		return fmt.Errorf("set its mode: %w", err)
	}
	if err := files.PosixRename(part, to); err != nil {
		return fmt.Errorf("put it in its place: %w", err)
	}
	return nil
}

// partInfix is in the name of every unfinished upload, before the hash.
const partInfix = ".l4lab-part-"

// removeParts removes what unfinished uploads of other contents left.
func removeParts(files *fileSystem, to, keep string) error {
	entries, err := files.ReadDir(path.Dir(to))
	if err != nil {
		return fmt.Errorf("list the folder: %w", err)
	}
	for _, e := range entries {
		name := path.Join(path.Dir(to), e.Name())
		if !strings.HasPrefix(name, to+partInfix) || name == keep {
			continue
		}
		if err := files.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an unfinished upload: %w", err)
		}
	}
	return nil
}

// upload is a file on its way.
type upload struct {
	guest  *Guest
	files  *fileSystem
	file   guest.File
	source *os.File
	size   int64
	to     string
}

// send sends what is not there yet.
func (u upload) send(ctx context.Context) error {
	remote, err := u.files.OpenFile(u.to, os.O_WRONLY|os.O_CREATE)
	if err != nil {
		return fmt.Errorf("open %s: %w", u.to, err)
	}
	stop := context.AfterFunc(ctx, func() { u.files.close() })
	defer stop()
	st, err := remote.Stat()
	if err != nil {
		return u.broke(ctx, err)
	}
	from := max(0, min(st.Size(), u.size)-rewind)
	if _, err := remote.Seek(from, io.SeekStart); err != nil {
		return err
	}
	if _, err := u.source.Seek(from, io.SeekStart); err != nil {
		return err
	}
	body := &progress{Reader: u.source, done: from, tell: func(done int64) {
		if u.guest.config.Progress != nil {
			u.guest.config.Progress(u.file, done, u.size)
		}
	}}
	if _, err := remote.ReadFromWithConcurrency(body, inFlight); err != nil {
		return u.broke(ctx, err)
	}
	if err := remote.Truncate(u.size); err != nil { // an older upload may have been longer
		return u.broke(ctx, err)
	}
	// fsync@openssh.com: a guest that is turned off now shall have it.
	if err := remote.Sync(); err != nil && !unsupported(err) {
		return u.broke(ctx, err)
	}
	if err := remote.Close(); err != nil {
		return u.broke(ctx, err)
	}
	return nil
}

func (u upload) broke(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else if space, statErr := u.files.StatVFS(path.Dir(u.to)); statErr == nil && space.Bavail*space.Frsize < leastRoom {
		// SFTP has no code for it: OpenSSH answers SSH_FX_FAILURE.
		err = fmt.Errorf("%w: no space left on the guest's disk: %d kB are free in %s; make room there", err, space.Bavail*space.Frsize>>10, path.Dir(u.to))
	}
	return fmt.Errorf("send it: %w (a part is there; the next push goes on with it)", err)
}

// leastRoom is what a disk has left that is not full, in bytes.
const leastRoom = 64 << 10

func unsupported(err error) bool {
	var status *sftp.StatusError
	return errors.As(err, &status) && status.FxCode() == sftp.ErrSSHFxOpUnsupported
}

type progress struct {
	io.Reader
	done int64
	tell func(int64)
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.done += int64(n)
	if n > 0 {
		p.tell(p.done)
	}
	return n, err
}

func hashOf(f *os.File) (size int64, hash string, err error) {
	h := sha256.New()
	size, err = io.Copy(h, f)
	return size, hex.EncodeToString(h.Sum(nil)), err
}

// hashFile prints a regular file's SHA-256; nothing when there is none, or
// when it should be executable and is not.
const hashFile = `if [ -f "$1" ] && { [ -z "$2" ] || [ -x "$1" ]; }; then exec sha256sum <"$1"; fi`

// hashThere returns the SHA-256 of a file in the guest, "" when there is none.
func (g *Guest) hashThere(ctx context.Context, p string, executable bool) (string, error) {
	needs := ""
	if executable {
		needs = "x"
	}
	var out bytes.Buffer
	if err := g.Run(ctx, guest.Command{Argv: []string{"sh", "-c", hashFile, "sh", p, needs}, Stdout: &out}); err != nil {
		return "", fmt.Errorf("hash %s: %w", p, err)
	}
	hash, _, _ := strings.Cut(out.String(), " ")
	return strings.TrimSpace(hash), nil
}

// fileSystem is an SFTP session.
type fileSystem struct {
	*sftp.Client
	session *ssh.Session
}

func (f *fileSystem) close() {
	f.session.Close()
	f.Client.Close()
}

// sftpServer finds OpenSSH's server where distributions put it: for sudo, which
// knows no subsystems.
const sftpServer = `for s in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server /usr/libexec/sftp-server; do
	if [ -x "$s" ]; then exec "$s"; fi
done
echo "no sftp-server found" >&2
exit 127`

func (g *Guest) sftp(ctx context.Context) (*fileSystem, error) {
	session, err := g.session(ctx)
	if err != nil {
		return nil, err
	}
	client, err := within(ctx, func() (*sftp.Client, error) {
		in, err := session.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := session.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if g.config.Sudo {
			err = session.Start("exec sudo -n -- sh -c " + quote(sftpServer))
		} else {
			err = session.RequestSubsystem("sftp")
		}
		if err != nil {
			return nil, err
		}
		return sftp.NewClientPipe(out, in, sftp.UseConcurrentWrites(true), sftp.MaxPacket(packetBytes), sftp.MaxConcurrentRequestsPerFile(inFlight))
	}, func(c *sftp.Client) { c.Close() })
	if err != nil {
		session.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("start SFTP: %w", err)
	}
	return &fileSystem{Client: client, session: session}, nil
}

// Pull implements guest.Guest.
func (g *Guest) Pull(ctx context.Context, p string) (io.ReadCloser, error) {
	from, err := g.path(p)
	if err != nil {
		return nil, err
	}
	files, err := g.sftp(ctx)
	if err != nil {
		return nil, g.errorf("pull %s: %w", from, err)
	}
	f, err := files.Open(from)
	if err != nil {
		files.close()
		return nil, g.errorf("pull %s: %w", from, err)
	}
	return &pulled{File: f, files: files}, nil
}

// pulled is a file that ends its session with itself.
type pulled struct {
	*sftp.File
	files *fileSystem
}

func (p *pulled) Close() error {
	err := p.File.Close()
	p.files.close()
	return err
}

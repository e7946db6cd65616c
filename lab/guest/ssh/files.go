package ssh

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
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

// sftp sends what is not there yet, uncompressed, and has the guest check it.
func (u upload) sftp(ctx context.Context) (outcome string, err error) {
	files, err := u.guest.sftp(ctx)
	if err != nil {
		return "", err
	}
	defer files.close()
	stop := context.AfterFunc(ctx, files.close)
	defer stop()
	if err := u.sendPackets(files); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("send it: %w (a part is there; the next push goes on with it)", hinted(err))
	}
	answers, err := u.run(ctx, finishScript, nil)
	if err != nil {
		return "", err
	}
	return answers.next()
}

func (u upload) sendPackets(files *fileSystem) error {
	remote, err := files.OpenFile(u.part, os.O_WRONLY|os.O_CREATE)
	if err != nil {
		return fmt.Errorf("open %s: %w", u.part, err)
	}
	st, err := remote.Stat()
	if err != nil {
		return err
	}
	from := u.from(st.Size())
	if _, err := remote.Seek(from, io.SeekStart); err != nil {
		return err
	}
	body, err := u.rest(from)
	if err != nil {
		return err
	}
	if _, err := remote.ReadFromWithConcurrency(body, inFlight); err != nil {
		return err
	}
	if err := remote.Truncate(u.size); err != nil { // an older upload may have been longer
		return err
	}
	return remote.Close()
}

// hinted says what SFTP's version 3 has no code for.
func hinted(err error) error {
	var status *sftp.StatusError
	if errors.As(err, &status) && status.FxCode() == sftp.ErrSSHFxFailure {
		return fmt.Errorf("%w: is there no space left on the guest's disk?", err)
	}
	return err
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

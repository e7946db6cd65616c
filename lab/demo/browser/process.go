package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/chromedp/chromedp"

	"l4lab/lab/guest"
)

// start runs the browser with a profile of its own in the node's folder, where there
// is one, and removes it behind. The DevTools pipe is file descriptors 3 and 4.
//
// As root there is no sandbox: Chromium refuses to make one, and the page comes from
// the lab. Proxies of the environment would lead out of the lab. TMPDIR keeps what
// Chromium puts into /tmp together with the profile.
const start = `dir=$(mktemp -d "${LABCTL_NODE:-${TMPDIR:-/tmp}}/browser.XXXXXX") || exit
trap 'rm -rf "$dir"' EXIT
trap : INT TERM HUP
[ "$(id -u)" != 0 ] || set -- "$@" --no-sandbox
HOME=$dir TMPDIR=$dir "$@" --user-data-dir="$dir/profile" about:blank 3<&0 4>&1 </dev/null >&2`

// flags leave out what is not the page: extensions, background traffic, a GPU,
// shared memory in /dev/shm (small in containers).
var flags = []string{
	"--headless", "--remote-debugging-pipe", "--no-proxy-server", "--no-first-run", "--disable-extensions", "--disable-sync",
	"--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-gpu",
	"--disable-dev-shm-usage", "--mute-audio", "--hide-scrollbars", "--force-color-profile=srgb", "--disable-crash-reporter",
}

// endPatience is how long the browser may take to end once its pipe has.
const endPatience = 5 * time.Second

// process is a running browser.
type process struct {
	browser *chromedp.Browser
	// write is our end of the pipe: closing it ends the browser.
	write  *os.File
	cancel context.CancelFunc
	// ended is closed when the process is no more, err set before.
	ended chan struct{}
	err   error
	words lastWords
	once  sync.Once
}

// launch starts the browser. It outlives the context, whose end only ends the launch.
func (b *program) launch(ctx context.Context) (*process, error) {
	commands, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	read, answers, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, commands.Close(), write.Close())
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &process{write: write, cancel: cancel, ended: make(chan struct{})}
	argv := append([]string{"sh", "-c", start, "sh", b.path}, flags...)
	go func() {
		defer close(p.ended)
		p.err = b.guest.Run(running, guest.Command{Argv: argv, Stdin: commands, Stdout: answers, Stderr: &p.words})
		// Only now will the other end be told: until then the process needs them.
		_, _ = commands.Close(), answers.Close()
	}()
	p.browser, err = chromedp.NewBrowserTransport(running, chromedp.NewPipeConn(read, write),
		chromedp.WithBrowserLogf(func(string, ...any) {}), chromedp.WithBrowserErrorf(func(string, ...any) {}))
	if err != nil {
		_ = read.Close() // whoever took it over does so otherwise; twice does no harm
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// close ends the browser and waits for its end.
func (p *process) close() error {
	p.once.Do(func() { _ = p.write.Close() }) // the pipe's other end may be gone already
	select {
	case <-p.ended:
	case <-time.After(endPatience):
	}
	p.cancel()
	<-p.ended
	return nil
}

// explain adds what the browser said before it ended by itself.
func (p *process) explain(err error) error {
	select {
	case <-p.ended:
		return fmt.Errorf("%w; the browser ended: %v: %s", err, p.err, p.words.String())
	default:
		return err
	}
}

// lastWords keeps the end of what the browser complains about.
type lastWords struct {
	mu   sync.Mutex
	text []byte
}

const mostWords = 2 << 10

func (w *lastWords) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, b...)
	if len(w.text) > mostWords {
		w.text = append([]byte(nil), w.text[len(w.text)-mostWords:]...)
	}
	return len(b), nil
}

func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(bytes.TrimSpace(w.text))
}

// allocator hands a running browser to chromedp.
type allocator struct{ browser *chromedp.Browser }

func (a allocator) Allocate(context.Context, ...chromedp.BrowserOption) (*chromedp.Browser, error) {
	return a.browser, nil
}

// Wait implements chromedp.Allocator; process.close waits.
func (a allocator) Wait() {}

// Attaches implements chromedp.Attacher: chromedp opens a tab and leaves the browser alone.
func (a allocator) Attaches() bool { return true }

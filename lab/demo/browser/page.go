package browser

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"l4lab/lab/demo"
)

// The size of the window, in CSS pixels; a picture has scale² as many.
const (
	width  = 640
	height = 400
	scale  = 1.25
)

// limit bounds one action on the page.
const limit = 20 * time.Second

// Page is a browser's tab.
type Page struct {
	// url is as the browser writes it, which leaves out port 80.
	url     string
	process *process
	tab     context.Context
	close   context.CancelFunc
}

// Open starts a browser and loads a page in it. The page stays as it came: what
// would refresh it by itself is stopped.
func (b *Browser) Open(ctx context.Context, url string) (demo.Page, error) {
	program, err := b.program(ctx)
	if err != nil {
		return nil, err
	}
	process, err := program.launch(ctx)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", program.path, err)
	}
	allocated, release := chromedp.NewAllocatorContext(context.WithoutCancel(ctx), allocator{process.browser})
	tab, close := chromedp.NewContext(allocated)
	p := &Page{url: url, process: process, tab: tab, close: func() { close(); release() }}
	err = p.do(ctx, "open", func(ctx context.Context) error {
		// The first action binds the tab to its context, which must be the tab's own.
		return chromedp.Do(p.tab)
	})
	if err == nil {
		err = p.do(ctx, "load", func(ctx context.Context) error {
			if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, height, chromedp.EmulateScale(scale)), chromedp.Navigate(url)); err != nil {
				return err
			}
			p.url, err = chromedp.Run(ctx, chromedp.Evaluate[string]("document.URL"))
			return errors.Join(err, chromedp.Do(ctx, chromedp.Stop()))
		})
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Reload is the forced refresh: past every cache, and waited for. Whether it comes
// from a new source port is up to the server's keep-alive; the lab's pages have none.
func (p *Page) Reload(ctx context.Context) error {
	return p.do(ctx, "reload", func(ctx context.Context) error {
		loaded := chromedp.Events(ctx, page.LoadEventFired)
		past := true
		if _, err := chromedp.Call(ctx, page.Reload, page.ReloadParams{IgnoreCache: &past}); err != nil {
			return err
		}
		for _, err := range loaded {
			if err != nil {
				return err
			}
			break
		}
		// A page that could not be fetched is Chromium's own, at another address.
		at, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.URL"))
		if err != nil {
			return err
		}
		if at != p.url {
			return fmt.Errorf("it shows %s instead", at)
		}
		return chromedp.Do(ctx, chromedp.Stop())
	})
}

// Screenshot takes a picture of the window. Its Alt is the page's text.
func (p *Page) Screenshot(ctx context.Context) (demo.Image, error) {
	image := demo.Image{Width: width, Height: height}
	err := p.do(ctx, "take a picture of", func(ctx context.Context) (err error) {
		text, err := p.text(ctx)
		if err != nil {
			return err
		}
		image.Alt = strings.Join(strings.Fields(text), " ")
		image.PNG, err = chromedp.Run(ctx, chromedp.CaptureScreenshot())
		return err
	})
	return image, err
}

// Text returns what a reader of the page sees.
func (p *Page) Text(ctx context.Context) (text string, err error) {
	err = p.do(ctx, "read", func(ctx context.Context) error {
		text, err = p.text(ctx)
		return err
	})
	return text, err
}

func (p *Page) text(ctx context.Context) (string, error) {
	return chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
}

// Close ends the browser and waits until it is gone.
func (p *Page) Close() error {
	err := p.process.close()
	p.close()
	return err
}

// do runs actions on the tab until they or the context end.
func (p *Page) do(ctx context.Context, what string, fn func(context.Context) error) error {
	within, cancel := context.WithTimeoutCause(p.tab, limit, fmt.Errorf("not done within %s", limit))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	if err := fn(within); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("%s %s in the browser: %w", what, p.url, p.process.explain(err))
	}
	return nil
}

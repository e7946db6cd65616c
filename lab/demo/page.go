package demo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/net/html"

	"l4lab/agent/api"
	"l4lab/topology"
)

// pageSteps are what one sees in a browser, in the connection table and in
// captures, in either mode.
func (w *walk) pageSteps() []planned {
	dump := fmt.Sprintf("service dumpstate --id %d", w.service.ID)
	const columns = "The table has source IP, dest IP, source port, dest port, backend IP, state (ACTIVE, CLOSING, IDLE), Rx bytes and Tx bytes."
	const refreshed = "A forced refresh in the browser uses a new source port, and so usually lands on another backend."
	return []planned{
		{
			key: "page", title: fmt.Sprintf("The page through the VIP: http://%s/", w.service.Frontend()),
			there: "The page names its server and its address, and refreshes itself.", run: w.firstPage,
		},
		{key: "dumpstate-page", title: "The connection in the agent's table", command: dump, there: columns, run: w.dumpstate},
		{key: "refresh", title: "A forced refresh", there: refreshed, run: w.refresh},
		{
			key: "dumpstate-refresh", title: "Both connections in the agent's table", command: dump,
			there: "The same table, after a refresh that used a new source port.", run: w.dumpstateBoth,
		},
		{
			key: "snat-packets", title: "SNAT: one request, captured at every place",
			there: "A packet capture on the balancer shows requests and replies.",
			run:   func(ctx context.Context) error { return w.packets(ctx, topology.SNAT) },
		},
		{
			key: "mode-dsr", title: "The mode is switched", command: "mode update dsr",
			there: "The program was unloaded, compiled anew and loaded again, and the service set again.", run: w.switchMode,
		},
		{key: "refresh-dsr", title: "A forced refresh, now in DSR", there: refreshed, run: w.refresh},
		{
			key: "dumpstate-dsr", title: "Connections of both modes in the agent's table", command: dump,
			there: columns, run: w.dumpstateBothModes,
		},
		{
			key: "dsr-packets", title: "DSR: one request, captured at every place",
			there: "A packet capture on the balancer shows requests alone; the backend answers the client itself.",
			run:   func(ctx context.Context) error { return w.packets(ctx, topology.DSR) },
		},
	}
}

// refreshes is how often the page is asked for until another backend answers:
// with four backends, the odds of 40 answers from one are about 4^-39.
const refreshes = 40

func (w *walk) firstPage(ctx context.Context) error {
	text, err := w.look(ctx)
	if err != nil {
		return err
	}
	w.sayServer()
	if err := w.photograph(ctx, text); err != nil {
		return err
	}
	w.check(w.backend != "", "the page names its server and its address: %s", w.nameOf(w.backend))
	w.here("%s answered.", w.nameOf(w.backend))
	return nil
}

// sayServer says which web server stands in for the demo's.
func (w *walk) sayServer() {
	if h := w.topology.Providers.HyperV; h == nil || h.Page != topology.PageNative || w.record.Simulated {
		w.standIn("The page comes from lbagent's own web server in place of IIS and nginx.")
	}
}

func (w *walk) refresh(ctx context.Context) error {
	w.before = w.backend
	if len(w.service.Backends) < 2 {
		w.here("There is one backend alone, so that no other can answer.")
		return nil
	}
	for i := range refreshes {
		text, err := w.look(ctx)
		if err != nil {
			return err
		}
		if w.backend == w.before {
			continue
		}
		if err := w.photograph(ctx, text); err != nil {
			return err
		}
		w.check(true, "another backend answers: %s instead of %s", w.nameOf(w.backend), w.nameOf(w.before))
		w.here("%s instead of %s, at refresh %d.", w.nameOf(w.backend), w.nameOf(w.before), i+1)
		return nil
	}
	w.check(false, "%d refreshes all came from %s", refreshes, w.nameOf(w.backend))
	return nil
}

// nameOf is a backend with its address.
func (w *walk) nameOf(backend string) string {
	if backend == "" {
		return "nobody known"
	}
	return fmt.Sprintf("%s (%s)", backend, w.topology.Nodes[backend].Address)
}

// look asks for the page, in the browser where there is one, and notes who answered.
func (w *walk) look(ctx context.Context) (text string, err error) {
	url := fmt.Sprintf("http://%s/", w.service.Frontend())
	if w.options.Browser != nil && w.record.ClientOS == topology.Windows {
		w.options.Browser = nil
		w.standIn("There is no picture of the page, which was asked for without a browser: " +
			"the client is Windows, whose Edge or Chrome labctl does not steer; it does on Linux clients.")
	}
	switch {
	case w.options.Browser == nil:
		var a answer
		if a, _, err = w.once(ctx, "/"); err == nil {
			text = readable(a.body)
		}
	case w.page == nil:
		if w.page, err = w.options.Browser.Open(ctx, url); errors.Is(err, ErrNoBrowser) {
			w.page, w.options.Browser = nil, nil
			w.standIn("There is no picture of the page, which was asked for without a browser (%v).", err)
			return w.look(ctx)
		}
		if err == nil {
			text, err = w.page.Text(ctx)
		}
	default:
		if err = w.page.Reload(ctx); err == nil {
			text, err = w.page.Text(ctx)
		}
	}
	if err != nil {
		return "", fmt.Errorf("ask for %s: %w", url, err)
	}
	w.backend = w.named(text)
	return text, nil
}

// named returns the backend whose name and address a page has, "" for none.
func (w *walk) named(text string) string {
	words := strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(",;()", r) })
	for _, b := range w.service.Backends {
		if slices.Contains(words, b) && slices.Contains(words, w.topology.Nodes[b].Address.String()) {
			return b
		}
	}
	return ""
}

// photograph shows the page as a picture, or its text without a browser. The page
// refreshes itself: a picture of another backend's than the text is taken anew.
func (w *walk) photograph(ctx context.Context, text string) error {
	if w.page == nil {
		w.showText("", text)
		return nil
	}
	for range 3 {
		image, err := w.page.Screenshot(ctx)
		if err != nil {
			return fmt.Errorf("take a picture of the page: %w", err)
		}
		after, err := w.page.Text(ctx)
		if err != nil {
			return fmt.Errorf("read the page: %w", err)
		}
		if w.named(after) == w.backend {
			w.show(Block{Title: "The browser on " + w.topology.Client.Name, Image: &image})
			return nil
		}
		w.backend = w.named(after)
	}
	return fmt.Errorf("the page changed during each of three pictures")
}

// closePage has the browser ask no more.
func (w *walk) closePage() {
	if w.page != nil {
		_ = w.page.Close() // it goes with its browser at the latest
		w.page = nil
	}
}

// readable is the text of a page, without markup: a line each, a term and what
// it stands for on one.
func readable(page []byte) string {
	var out strings.Builder
	skip, end := false, "\n"
	for tokens := html.NewTokenizer(bytes.NewReader(page)); ; {
		switch kind := tokens.Next(); kind {
		case html.ErrorToken:
			return out.String()
		case html.StartTagToken, html.EndTagToken:
			name, _ := tokens.TagName()
			switch string(name) {
			case "style", "title":
				skip = kind == html.StartTagToken
			case "dt":
				end = ": "
			case "dd":
				end = "\n"
			}
		case html.TextToken:
			text := strings.TrimSpace(string(tokens.Text()))
			if text != "" && !skip {
				out.WriteString(text + end)
			}
		}
	}
}

// shown is how many rows of the connection table are shown.
const shown = 8

// connections shows the table's rows of the service, and returns them all.
func (w *walk) connections(ctx context.Context) ([]api.Connection, error) {
	list, err := w.agent.Connections(ctx, w.service.ID)
	if err != nil {
		return nil, fmt.Errorf("ask the agent for its connections: %w", err)
	}
	latest := slices.SortedStableFunc(slices.Values(list), func(a, b api.Connection) int { return cmp.Compare(a.IdleFor, b.IdleFor) })
	rows := api.Dumpstate(latest[:min(shown, len(latest))])
	title := ""
	if len(list) > shown {
		title = fmt.Sprintf("The last %d of %d connections", shown, len(list))
	}
	w.showTable(title, rows[0], rows[1:])
	return latest, nil
}

func (w *walk) dumpstate(ctx context.Context) error {
	list, err := w.connections(ctx)
	if err != nil {
		return err
	}
	c, ok := w.connectionTo(list, w.backend)
	w.check(ok, "the page's connection is there, to %s", w.nameOf(w.backend))
	if ok {
		w.check(c.TxBytes != nil && *c.TxBytes > 0 && c.RxBytes > 0, "bytes of both directions are counted, since both cross the balancer")
		w.here("The same columns: %s from port %d to %s.", c.Source.Addr(), c.Source.Port(), w.nameOf(w.backend))
	}
	return nil
}

// connectionTo is the client's latest connection to a backend.
func (w *walk) connectionTo(list []api.Connection, backend string) (api.Connection, bool) {
	i := slices.IndexFunc(list, func(c api.Connection) bool {
		return c.Source.Addr() == w.topology.Client.Address && c.Backend == w.address(backend)
	})
	if i < 0 {
		return api.Connection{}, false
	}
	return list[i], true
}

func (w *walk) dumpstateBoth(ctx context.Context) error {
	list, err := w.connections(ctx)
	if err != nil {
		return err
	}
	if len(w.service.Backends) < 2 {
		w.here("There is one backend alone.")
		return nil
	}
	first, ok := w.connectionTo(list, w.before)
	second, okNow := w.connectionTo(list, w.backend)
	w.check(ok && okNow && first.Source != second.Source, "connections to %s and to %s are there, from two source ports", w.nameOf(w.before), w.nameOf(w.backend))
	w.here("Ports %d and %d, to %s and %s.", first.Source.Port(), second.Source.Port(), w.before, w.backend)
	return nil
}

func (w *walk) dumpstateBothModes(ctx context.Context) error {
	w.closePage() // what comes now counts packets and connections
	list, err := w.connections(ctx)
	if err != nil {
		return err
	}
	count := map[string]int{}
	for _, c := range list {
		count[c.Mode]++
		if (c.TxBytes == nil) != (c.Mode == string(topology.DSR)) {
			w.check(false, "%s in %s: bytes of replies are counted where none pass, or not where they do", c.Source, c.Mode)
		}
	}
	w.check(count["snat"] > 0 && count["dsr"] > 0, "%d connections in SNAT with bytes of both directions, %d in DSR without Tx: those replies never pass", count["snat"], count["dsr"])
	w.here("Connections keep the mode in which they began: %d in SNAT, %d in DSR.", count["snat"], count["dsr"])
	return nil
}

// switchMode switches while a connection is open, which goes on in its mode.
func (w *walk) switchMode(ctx context.Context) error {
	kept, _, err := w.converse(ctx, nil)
	if err != nil {
		return err
	}
	defer kept.close()
	lb := w.topology.Nodes[w.topology.LoadBalancer()].Address
	if _, err := kept.peer(false); err != nil {
		return fmt.Errorf("ask before the switch: %w", err)
	}
	begin := time.Now()
	if err := w.operate(ctx, "mode update dsr"); err != nil {
		return err
	}
	took := time.Since(begin)
	// The agent has switched by now; this is for labctl to remember.
	if err := w.lab.Mode(ctx, 0, topology.DSR); err != nil {
		return err
	}
	after, err := kept.peer(true)
	w.check(err == nil && after.Addr() == lb, "a connection opened before goes on with %s, in SNAT: its backend still sees the balancer, %s%s", kept.backend, lb, becauseOf(err))
	fresh, _, err := w.converse(ctx, nil)
	if err != nil {
		return err
	}
	defer fresh.close()
	peer, err := fresh.peer(true)
	w.check(err == nil && peer.Addr() == w.topology.Client.Address, "a new connection is in DSR: its backend sees the client, %s%s", w.topology.Client.Address, becauseOf(err))
	w.here("It took %.2f s, typing it on %s included: nothing is compiled or loaded.", took.Seconds(), w.topology.LoadBalancer())
	return nil
}

func becauseOf(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

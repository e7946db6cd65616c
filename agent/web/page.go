package web

import (
	"fmt"
	"hash/fnv"
	"html"
	"io"
	"net/netip"
)

// refreshSeconds is how often the page asks again.
const refreshSeconds = 3

// pageStyle gives each backend a colour of its own, so that one sees from
// across the room that another one answered.
func pageStyle(name string) string {
	hash := fnv.New32a()
	io.WriteString(hash, name)
	return fmt.Sprintf(`:root{color-scheme:light dark;--hue:%d}`, hash.Sum32()%360)
}

// pageRules is the rest of the page's style.
const pageRules = `
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;font:16px/1.5 system-ui,sans-serif;
 background:hsl(var(--hue) 40% 96%);color:hsl(var(--hue) 30% 15%)}
main{width:min(30rem,92vw);border-radius:1rem;overflow:hidden;background:#fff;box-shadow:0 .5rem 2rem hsl(var(--hue) 40% 20%/.18)}
header{padding:1.75rem 2rem;color:#fff;background:linear-gradient(120deg,hsl(var(--hue) 65% 38%),hsl(calc(var(--hue) + 40) 65% 45%))}
h1{margin:0;font-size:2.75rem;line-height:1.1;letter-spacing:-.02em}
header p{margin:.35rem 0 0;opacity:.9}
dl{margin:0;padding:1.25rem 2rem;display:grid;grid-template-columns:auto 1fr;gap:.4rem 1.5rem}
dt{opacity:.65}
dd{margin:0;text-align:right;font-family:ui-monospace,monospace}
footer{padding:0 2rem 1.25rem;font-size:.85rem;opacity:.65}
@media(prefers-color-scheme:dark){body{background:hsl(var(--hue) 25% 9%);color:hsl(var(--hue) 20% 90%)}
 main{background:hsl(var(--hue) 20% 14%)}}
`

// writePage writes the page; host is what the client asked for, as in its Host
// header.
func (h *handler) writePage(w io.Writer, host string, client netip.AddrPort) {
	name, address, system := html.EscapeString(h.Name), h.Address.String(), html.EscapeString(h.OS)
	fmt.Fprintf(w, `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="refresh" content="%d">
<title>%s (%s)</title>
<style>%s%s</style>
<main>
<header><h1>%s</h1><p>answered your request</p></header>
<dl>
<dt>Backend address</dt><dd>%s</dd>
<dt>Operating system</dt><dd>%s</dd>
<dt>You asked for</dt><dd>%s</dd>
<dt>Your address, seen from here</dt><dd>%s</dd>
</dl>
<footer>Asks again every %d seconds from a new source port, so another backend may answer.</footer>
</main>
</html>
`, refreshSeconds, name, address, h.style, pageRules, name, address, system, html.EscapeString(shortened(host)), client, refreshSeconds)
}

package web

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"l4lab/agent/web/pattern"
)

// MaxBytes is the largest download: more than any capture wants to hold.
const MaxBytes = 4 << 30

// Whoami is the answer of /whoami and to a datagram.
type Whoami struct {
	Identity
	// Client is the peer as this server sees it: in DSR the client itself, in
	// SNAT the load balancer.
	Client netip.AddrPort `json:"client"`
}

// Sink is the answer of /sink: how much arrived, and its hash in lower-case hex.
type Sink struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// handler answers HTTP requests in a backend's name.
type handler struct {
	Identity
	log   *slog.Logger
	mux   *http.ServeMux
	style string // the page's colours
}

func newHandler(identity Identity, log *slog.Logger) *handler {
	h := &handler{Identity: identity, log: log, mux: http.NewServeMux(), style: pageStyle(identity.Name)}
	h.mux.HandleFunc("GET /{$}", h.page)
	h.mux.HandleFunc("GET /whoami", h.whoami)
	h.mux.HandleFunc("GET /bytes", h.bytes)
	h.mux.HandleFunc("POST /sink", h.sink)
	return h
}

// ServeHTTP names the backend on every answer, errors included, and logs.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	w.Header().Set("X-Backend", h.Name)
	counted := &countingWriter{ResponseWriter: w, status: http.StatusOK}
	h.mux.ServeHTTP(counted, r)
	h.log.LogAttrs(r.Context(), slog.LevelInfo, "request",
		slog.String("client", r.RemoteAddr),
		slog.String("method", r.Method),
		slog.String("url", shortened(r.URL.RequestURI())),
		slog.Int("status", counted.status),
		slog.Int64("bytes", counted.bytes),
		slog.Duration("took", time.Since(start)))
}

// shortened bounds what one request can put into the log.
func shortened(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

func (h *handler) page(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	// The next refresh is to come from another source port, so that the load
	// balancer chooses again.
	header.Set("Connection", "close")
	h.writePage(w, r.Host, client(r))
}

func (h *handler) whoami(w http.ResponseWriter, r *http.Request) {
	answerJSON(w, Whoami{h.Identity, client(r)})
}

func (h *handler) bytes(w http.ResponseWriter, r *http.Request) {
	n, seed, err := bytesQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	if r.Method == http.MethodHead {
		return
	}
	if _, err := io.Copy(w, pattern.Reader(n, seed)); err != nil {
		h.log.Warn("download broken off", "client", r.RemoteAddr, "error", err)
	}
}

// bytesQuery reads n and seed; seed is 0 when it is left out.
func bytesQuery(q url.Values) (n int64, seed uint64, err error) {
	n, err = strconv.ParseInt(q.Get("n"), 10, 64)
	if err != nil || n < 0 || n > MaxBytes {
		return 0, 0, fmt.Errorf("n=%q is not between 0 and %d", shortened(q.Get("n")), int64(MaxBytes))
	}
	if !q.Has("seed") {
		return n, 0, nil
	}
	seed, err = strconv.ParseUint(q.Get("seed"), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("seed=%q is not a number from 0 to 2^64-1", shortened(q.Get("seed")))
	}
	return n, seed, nil
}

func (h *handler) sink(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	n, err := io.Copy(hash, r.Body)
	if err != nil {
		http.Error(w, fmt.Sprintf("the body broke off after %d bytes: %v", n, err), http.StatusBadRequest)
		return
	}
	answerJSON(w, Sink{n, hex.EncodeToString(hash.Sum(nil))})
}

func answerJSON(w http.ResponseWriter, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(text, '\n'))
}

// client returns the peer's address, the zero value where there is none.
func client(r *http.Request) netip.AddrPort {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
}

// countingWriter remembers what was answered, for the log.
type countingWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *countingWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// peerOf names a datagram's sender.
func peerOf(a net.Addr) netip.AddrPort {
	udp, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	peer := udp.AddrPort()
	return netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
}

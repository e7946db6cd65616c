package api

import (
	"context"
	"net/http"
	"net/netip"
)

// Diff is what GET and POST /v1/diff answer: services that are desired against what the
// data path's maps hold.
type Diff struct {
	// Desired says where they stand: "config" (the agent's config file, as it was
	// last read without fault), "state" (the agent's own), or "request".
	Desired string `json:"desired"`
	Same    bool   `json:"same"`
	// TablesUnread says that Maglev tables were not compared: the agent has no
	// CAP_SYS_ADMIN, which opening them takes.
	TablesUnread bool `json:"tablesUnread,omitempty"`
	// Services are those that differ, ordered by id.
	Services []ServiceDiff `json:"services"`
}

// ServiceDiff is how one service differs.
type ServiceDiff struct {
	ID       uint32         `json:"id"`
	Frontend netip.AddrPort `json:"frontend"`
	Protocol string         `json:"protocol"`
	// Change is "missing" (desired, and not in the data path), "unwanted" (in it
	// and not desired) or "changed".
	Change string      `json:"change"`
	Fields []FieldDiff `json:"fields,omitempty"`
}

// FieldDiff is one difference, in words.
type FieldDiff struct {
	// Field is one of Service, as in mode and backends[20.1.1.10:80].weight, or
	// "table", the Maglev table, when nothing else differs.
	Field   string `json:"field"`
	Desired string `json:"desired"`
	Actual  string `json:"actual"`
}

// Diff compares what the agent is to have with what the data path has.
func (c *Client) Diff(ctx context.Context) (Diff, error) { return get[Diff](ctx, c, "/v1/diff") }

// DiffWith compares these services, which are not set, with what the data path has.
func (c *Client) DiffWith(ctx context.Context, all []Service) (Diff, error) {
	if all == nil {
		all = []Service{}
	}
	var d Diff
	err := c.do(ctx, http.MethodPost, "/v1/diff", all, &d)
	return d, err
}

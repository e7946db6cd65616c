package api

import (
	"context"
	"net/netip"
	"time"
)

// BackendHealth is what the checks know of one backend of one service.
type BackendHealth struct {
	ServiceID uint32         `json:"serviceId"`
	Backend   netip.AddrPort `json:"backend"`
	// Health is "healthy" or "quarantined".
	Health string `json:"health"`
	// Paused: the backend is in maintenance and not asked.
	Paused bool `json:"paused,omitempty"`
	// Result is the last check's: "passed", "failed", "inconclusive", which counts
	// neither way, or "" before the first. Error says what was wrong.
	Result string `json:"result,omitempty"`
	Error  string `json:"error,omitempty"`
	// Consecutive counts the results in a row that are as the last conclusive one.
	Consecutive int       `json:"consecutive"`
	CheckedAt   time.Time `json:"checkedAt,omitzero"`
	// Duration is the last check's, in seconds.
	Duration float64 `json:"duration"`
	Passes   uint64  `json:"passes"`
	Failures uint64  `json:"failures"`
	Unclear  uint64  `json:"unclear"`
	// Late counts checks that began more than a tenth of the interval after their time.
	Late uint64 `json:"late"`
}

// Health returns what the checks know, ordered by service and backend.
func (c *Client) Health(ctx context.Context) ([]BackendHealth, error) {
	return get[[]BackendHealth](ctx, c, "/v1/health")
}

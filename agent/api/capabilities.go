package api

import "context"

// Capabilities is what GET /v1/capabilities answers: what the agent's data path can do.
type Capabilities struct {
	// Profile is "linux", "efw-0.21" or "xdp"; System says it in words.
	Profile  string       `json:"profile"`
	System   string       `json:"system"`
	Features []Capability `json:"features"`
	// Missing is what the data path needs and this machine lacks; the agent does not start then.
	Missing []string `json:"missing,omitempty"`
}

// Capability is one feature.
type Capability struct {
	Key   string `json:"key"`
	Group string `json:"group"`
	Name  string `json:"name"`
	// Support is "yes", "partly" or "no"; Note says why, or how it differs.
	Support string `json:"support"`
	Note    string `json:"note,omitempty"`
}

// Capabilities says what the agent's data path can do, feature by feature.
func (c *Client) Capabilities(ctx context.Context) (Capabilities, error) {
	return get[Capabilities](ctx, c, "/v1/capabilities")
}

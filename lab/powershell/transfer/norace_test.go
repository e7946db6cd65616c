//go:build !race

package transfer_test

// large is the agent's size.
const large = 12 << 20

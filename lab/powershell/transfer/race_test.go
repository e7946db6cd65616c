//go:build race

package transfer_test

// large is less under the race detector, which makes XML twenty times as slow.
const large = 2 << 20

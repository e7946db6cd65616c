// Package pattern makes the bytes that a backend's /bytes sends, so that
// whoever downloads them can compute what should have arrived without asking
// the sender. It needs neither network nor HTTP.
//
// The bytes are the ChaCha8 stream of math/rand/v2 (the C2SP chacha8rand
// specification, fixed for all versions of Go), keyed with the seed as 8
// little-endian bytes followed by 24 zero bytes. They do not compress, and a
// piece that is lost, repeated or out of place changes the hash.
package pattern

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
)

// Reader returns the first n bytes for a seed. What it returns does not depend
// on the sizes of the reads.
func Reader(n int64, seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// SHA256 returns the hash, in lower-case hex, of the first n bytes for a seed:
// what /sink answers after they have been uploaded.
func SHA256(n int64, seed uint64) (string, error) {
	hash := sha256.New()
	if _, err := io.Copy(hash, Reader(n, seed)); err != nil {
		return "", fmt.Errorf("hash %d bytes of seed %d: %w", n, seed, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

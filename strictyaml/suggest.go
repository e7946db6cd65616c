package strictyaml

import "fmt"

// Suggestion is `, did you mean "x"?` when a candidate is close to what was
// written, else "".
func Suggestion(written string, candidates []string) string {
	// Long names are no typing errors, and every candidate costs.
	const longest, most = 30, 1000
	if len(written) > longest || len(candidates) > most {
		return ""
	}
	best, distance := "", 1+max(1, len(written)/3)
	for _, c := range candidates {
		if len(c) > longest {
			continue
		}
		if d := editDistance(written, c); d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

// editDistance is Levenshtein's: insertions, deletions and replacements of bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

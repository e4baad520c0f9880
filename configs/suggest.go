package configs

import (
	"slices"
	"strings"
)

// suggest returns the candidate that was probably meant by word, or "".
// Candidates are tried in order; the first of the closest wins.
func suggest(word string, candidates []string) string {
	if len(word) > 64 { // longer than any key, and the distance is quadratic
		return ""
	}
	best, limit := "", max(1, len(word)/3)
	for _, c := range candidates {
		if n := distance(fold(word), fold(c)); n < limit || n == limit && best == "" {
			best, limit = c, n
		}
	}
	return best
}

// fold takes away what people mix up between formats: case and separators.
func fold(s string) string {
	return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s))
}

// distance is the number of characters to insert, delete, replace or swap with
// a neighbour to get from a to b (optimal string alignment).
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	var before []int
	last := make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := range x {
		row := make([]int, len(y)+1)
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			row[j+1] = slices.Min([]int{last[j+1] + 1, row[j] + 1, last[j] + cost})
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(y)]
}

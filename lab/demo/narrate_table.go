package demo

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// gap is between two columns of a table, narrowest the least that a column is made.
const gap, narrowest = "  ", 6

// table writes a table. One that is wider than there is room has its widest columns
// made narrower, and their cells broken into lines.
func (n *Narration) table(t Table) {
	rows := append([][]string{t.Head}, t.Rows...)
	head := margin + "  "
	widths := columnsOf(rows)
	if n.room > 0 {
		fit(widths, n.room-len(head))
	}
	for _, row := range rows {
		for _, line := range linesOf(row, widths) {
			fmt.Fprintln(n.w, strings.TrimRight(head+line, " "))
		}
	}
}

// columnsOf are the columns' widths, as wide as their widest cells.
func columnsOf(rows [][]string) (widths []int) {
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

// fit takes from the widest column until all fit, or none can be narrower.
func fit(widths []int, room int) {
	sum := len(gap) * (len(widths) - 1)
	for _, w := range widths {
		sum += w
	}
	for ; sum > room; sum-- {
		widest := slices.Max(widths)
		if widest <= narrowest {
			return
		}
		widths[slices.Index(widths, widest)]--
	}
}

// linesOf sets a row's cells side by side, each broken at its column's width.
func linesOf(row []string, widths []int) (lines []string) {
	var cells [][]string
	height := 0
	for i, cell := range row {
		cells = append(cells, broken(cell, widths[i]))
		height = max(height, len(cells[i]))
	}
	for l := range height {
		var line strings.Builder
		for i, cell := range cells {
			text := ""
			if l < len(cell) {
				text = cell[l]
			}
			if i > 0 {
				line.WriteString(gap)
			}
			line.WriteString(text + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)))
		}
		lines = append(lines, line.String())
	}
	return lines
}

// broken is a cell in lines of a width: broken at spaces, and in the middle of a word that is longer.
func broken(cell string, width int) (lines []string) {
	if utf8.RuneCountInString(cell) <= width {
		return []string{cell}
	}
	for _, line := range wrap(cell, width) {
		runes := []rune(line)
		for len(runes) > width {
			lines = append(lines, string(runes[:width]))
			runes = runes[width:]
		}
		lines = append(lines, string(runes))
	}
	return lines
}

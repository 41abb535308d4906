// Package report makes of what was measured what people read: medians, ratios beside
// their targets, tables, and the page that keeps them.
package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Median returns the middle of values, or the mean of the two in the middle; NaN of
// none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// Ratio returns the median of ours[i] / theirs[i]: what was measured one right after
// the other is compared, since the machine is not the same all the time. NaN where
// there is nothing to compare.
func Ratio(ours, theirs []float64) float64 {
	var ratios []float64
	for i := range min(len(ours), len(theirs)) {
		if theirs[i] != 0 {
			ratios = append(ratios, ours[i]/theirs[i])
		}
	}
	return Median(ratios)
}

// Check is a number beside its target.
type Check struct {
	Operation string
	Yardstick string
	Value     float64 // NaN: it was not measured
	Bound     float64
	AtMost    bool // Bound is the most that Value may be, not the least
	// Spoilt says why the number does not count although it was measured.
	Spoilt string
}

// Reached tells whether the target was met: "yes", "no", or why that is not known.
func (c *Check) Reached() string {
	switch {
	case math.IsNaN(c.Value):
		return "not measured"
	case c.Spoilt != "":
		return "no: " + c.Spoilt
	case c.AtMost && c.Value <= c.Bound, !c.AtMost && c.Value >= c.Bound:
		return "yes"
	}
	return "no"
}

// Checks is the table of checks.
func Checks(checks []Check) string {
	rows := make([][]string, len(checks))
	for i := range checks {
		c := &checks[i]
		target := "≥ "
		if c.AtMost {
			target = "≤ "
		}
		rows[i] = []string{c.Operation, c.Yardstick, target + Number(c.Bound), Number(c.Value), c.Reached()}
	}
	return Table([]string{"operation", "compared with", "target:", "measured:", "reached"}, rows)
}

// Table is a table in Markdown. A column whose name ends with a colon holds numbers.
func Table(header []string, rows [][]string) string {
	names := make([]string, len(header))
	rules := make([]string, len(header))
	for i, name := range header {
		var number bool
		names[i], number = strings.CutSuffix(name, ":")
		rules[i] = "---"
		if number {
			rules[i] = "---:"
		}
	}
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(names)
	b.WriteString("|" + strings.Join(rules, "|") + "|\n")
	for _, row := range rows {
		line(row)
	}
	return b.String()
}

// Number writes a number with as many digits as mean something here.
func Number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) < 10:
		return fmt.Sprintf("%.2f", v)
	case math.Abs(v) < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return grouped(fmt.Sprintf("%.0f", v))
}

// grouped parts thousands by commas.
func grouped(digits string) string {
	sign := ""
	if rest, negative := strings.CutPrefix(digits, "-"); negative {
		sign, digits = "-", rest
	}
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return sign + digits
}

// Milliseconds writes a duration as a number of milliseconds.
func Milliseconds(d time.Duration) string { return Number(d.Seconds() * 1e3) }

// Replace puts content into a page, between the markers of a section, and leaves all
// else as it is.
func Replace(page, section, content string) (string, error) {
	begin, end := "<!-- "+section+":begin -->\n", "<!-- "+section+":end -->"
	head, rest, found := strings.Cut(page, begin)
	if !found {
		return "", fmt.Errorf("the page has no section %q", section)
	}
	_, tail, found := strings.Cut(rest, end)
	if !found {
		return "", fmt.Errorf("the section %q has no end", section)
	}
	return head + begin + strings.TrimRight(content, "\n") + "\n" + end + tail, nil
}

package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tourStep is a command of the README's tour with the output that it shows.
type tourStep struct{ command, output string }

// tour returns the steps of the README's tour: in a block of kind console, a line
// that begins with "$ " is a command and what follows is its output.
func tour(t *testing.T) (steps []tourStep) {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, rest, begins := strings.Cut(string(readme), "<!-- tour:begin -->")
	text, _, ends := strings.Cut(rest, "<!-- tour:end -->")
	require.True(t, begins && ends, "README.md has lost the marks of its tour")
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(text, -1) {
		for _, step := range strings.Split(block[1], "$ ")[1:] {
			command, output, _ := strings.Cut(step, "\n")
			steps = append(steps, tourStep{command, strings.TrimSpace(output)})
		}
	}
	require.NotEmpty(t, steps)
	return steps
}

// TestReadmeTour does what the README tells a new user to do, and expects what it
// shows, where … stands for anything.
func TestReadmeTour(t *testing.T) {
	t.Parallel()
	s := startReady(t, newDataDir(t))
	for _, step := range tour(t) {
		command := strings.ReplaceAll(step.command, "http://127.0.0.1:8080", "http://"+s.address())
		// What make import does, without building again what make test has built.
		command = strings.ReplaceAll(command, "make import", "go run ./cmd/import --server http://"+s.address()+" examples/registry")
		command = strings.ReplaceAll(command, "curl ", "curl --silent --show-error --max-time 10 ")
		cmd := exec.Command("bash", "-c", command)
		cmd.Dir = "../.."
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", step.command, out)
		want := "(?s)^" + strings.NewReplacer("…\n", "(.*\n)?", "…", ".*").Replace(regexp.QuoteMeta(step.output)) + "$"
		require.Regexp(t, want, strings.TrimSpace(string(out)), step.command)
	}
}

package shadcn

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
)

// TestReadmeTour does what the README tells a user of the CLI to do, all of it in one
// shell, and expects what it shows, where … stands for anything. The CLI is the one that
// is installed here, of the same version, so that npx has nothing to fetch.
func TestReadmeTour(t *testing.T) {
	needsNode(t)
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	_, rest, begins := strings.Cut(string(readme), "<!-- registry-tour:begin -->\n```console\n")
	block, _, ends := strings.Cut(rest, "```\n<!-- registry-tour:end -->")
	require.True(t, begins && ends, "README.md has lost the marks of its tour")
	pinned, err := os.ReadFile("package.json")
	require.NoError(t, err)
	var dependencies struct{ Dependencies map[string]string }
	require.NoError(t, json.Unmarshal(pinned, &dependencies))
	npx := "npx shadcn@" + dependencies.Dependencies["shadcn"] + " "
	require.NotContains(t, strings.ReplaceAll(string(readme), npx, ""), "npx ", "the README runs another version than package.json pins")

	s := serve(t, "DATABASE_URL="+pgtest.New(t))
	folder := filepath.Join(t.TempDir(), "stockroom")
	require.NoError(t, os.Mkdir(folder, 0o755))
	p := newProject(t, nil)
	p.dir = folder
	cli := p.command(t.Context())
	absolute, err := filepath.Abs(examples(t))
	require.NoError(t, err)
	const end = "-- end of a step --"
	var script strings.Builder
	var want []string
	for _, step := range tourSteps(block) {
		command := strings.NewReplacer(
			"http://127.0.0.1:8080", s.url,
			npx, strings.Join(cli.Args, " ")+" ",
			"make import", filepath.Join(binaries, "import")+" --server "+s.url+" "+absolute,
		).Replace(step.command)
		script.WriteString(command + "\necho '" + end + "'\n")
		want = append(want, "(?s)^"+strings.NewReplacer("…\n", "(.*\n)?", "…", ".*").Replace(regexp.QuoteMeta(step.output))+"$")
	}
	require.Greater(t, len(want), 5)
	ctx, cancel := context.WithTimeout(t.Context(), lifetime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script.String())
	cmd.Dir, cmd.Env = folder, p.env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	got := strings.Split(string(out), end+"\n")
	require.Len(t, got, len(want)+1, "%s", out)
	for i := range want {
		require.Regexp(t, want[i], strings.TrimSpace(got[i]), tourSteps(block)[i].command)
	}
}

// tourStep is a command of the tour with the output that it shows.
type tourStep struct{ command, output string }

// tourSteps takes a block apart: a line that begins with "$ " is a command, up to the
// end of its here-document if it has one, and what follows is its output.
func tourSteps(block string) (steps []tourStep) {
	for _, step := range strings.Split("\n"+block, "\n$ ")[1:] {
		command, output, _ := strings.Cut(step, "\n")
		if strings.Contains(command, "<<'END'") {
			document, rest, _ := strings.Cut(output, "\nEND")
			command, output = command+"\n"+document+"\nEND", rest
		}
		steps = append(steps, tourStep{command, strings.TrimSpace(output)})
	}
	return steps
}

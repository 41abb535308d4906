package progress_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/progress"
)

func TestLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := progress.Start(&out, progress.Options{Doing: "importing", Unit: "files", Total: 365, Every: 100})
	for range 36 {
		p.Add(10)
	}
	p.Add(5)
	p.Say("that was all")
	p.Close()
	require.Equal(t, "100 of 365 files\n200 of 365 files\n300 of 365 files\nthat was all\n", out.String())
}

func TestLinesOfNobodyKnowsHowMany(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := progress.Start(&out, progress.Options{Doing: "checking", Unit: "items", Total: -1, Every: 10})
	p.Add(9)
	p.Add(2)
	p.Close()
	require.Equal(t, "checking: 11 items\n", out.String())
}

func TestNobodyLooks(t *testing.T) {
	t.Parallel()
	p := progress.Start(nil, progress.Options{Doing: "importing", Unit: "files", Total: 1, Every: 1})
	p.Add(1)
	p.Say("nobody hears this")
	p.Close()
}

package buildinfo

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVersion(t *testing.T) {
	t.Parallel()
	commit := []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"},
		{Key: "vcs.modified", Value: "true"},
	}
	for _, tc := range []struct {
		name     string
		linked   string
		recorded debug.BuildInfo
		want     string
	}{
		{"the linker's wins", "v1.2.3", debug.BuildInfo{Main: debug.Module{Version: "v9.9.9"}}, "v1.2.3"},
		{"go install", "dev", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3"},
		{"go build in a clone", "dev", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: commit}, "dev-0123456789ab-dirty"},
		{"a short revision", "dev", debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}}}, "dev-abc"},
		{"nothing recorded", "dev", debug.BuildInfo{}, "dev"},
		{"an empty -X", "", debug.BuildInfo{}, "dev"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.want, version(tc.linked, &tc.recorded))
		})
	}
	require.NotEmpty(t, String())
}

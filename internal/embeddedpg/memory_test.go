package embeddedpg

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func TestSharedBuffers(t *testing.T) {
	t.Parallel()
	const meminfo, v2, v1 = "proc/meminfo", "sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"nothing is known":       {nil, "256MB"},
		"a quarter":              {map[string]string{meminfo: "MemTotal:        2097152 kB\nMemFree:          65536 kB\n"}, "512MB"},
		"at most":                {map[string]string{meminfo: "MemTotal:       65536000 kB\n"}, "1024MB"},
		"at least":               {map[string]string{meminfo: "MemTotal:          65536 kB\n"}, "32MB"},
		"a container":            {map[string]string{meminfo: "MemTotal:       65536000 kB\n", v2: "1073741824\n"}, "256MB"},
		"one without a limit":    {map[string]string{meminfo: "MemTotal:        2097152 kB\n", v2: "max\n"}, "512MB"},
		"a limit beyond what is": {map[string]string{meminfo: "MemTotal:        2097152 kB\n", v1: "9223372036854771712\n"}, "512MB"},
		"an older container":     {map[string]string{meminfo: "MemTotal:       65536000 kB\n", v1: "536870912\n"}, "128MB"},
		"what nobody can read":   {map[string]string{meminfo: "MemTotal: much\n", v2: ""}, "256MB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := fstest.MapFS{}
			for path, content := range tc.files {
				files[path] = &fstest.MapFile{Data: []byte(content)}
			}
			require.Equal(t, tc.want, sharedBuffers(files))
		})
	}
}

package embeddedpg

import (
	"bytes"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

const (
	// Pages that PostgreSQL does not hold itself cost it a call of the kernel each time. Beyond some size the gain
	// is small, and what it takes for itself, others do not have.
	minSharedBuffers = 32 << 20
	maxSharedBuffers = 1 << 30
	// usualSharedBuffers are for a system that does not tell how much memory it has.
	usualSharedBuffers = 256 << 20
)

// sharedBuffers returns PostgreSQL's setting of that name, for the system with the files of root: a quarter of the
// memory that it may have, as PostgreSQL's manual advises, within bounds. The pages are taken only as they are used.
func sharedBuffers(root fs.FS) string {
	size := int64(usualSharedBuffers)
	if memory := memoryOf(root); memory > 0 {
		size = min(max(memory/4, minSharedBuffers), maxSharedBuffers)
	}
	return fmt.Sprintf("%dMB", size>>20)
}

// memoryOf returns the bytes of the machine's memory or, where that is less, of the container's; 0 where neither is
// known.
func memoryOf(root fs.FS) (least int64) {
	for name, parse := range map[string]func([]byte) int64{
		"proc/meminfo":                               memTotal,
		"sys/fs/cgroup/memory.max":                   number, // the word max where there is no limit
		"sys/fs/cgroup/memory/memory.limit_in_bytes": number,
	} {
		content, err := fs.ReadFile(root, name)
		if err != nil {
			continue // another system, or another version of control groups
		}
		if n := parse(content); n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

func number(content []byte) int64 {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(content)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// memTotal reads the line "MemTotal: 16384 kB" of /proc/meminfo.
func memTotal(content []byte) int64 {
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			return number([]byte(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))) << 10
		}
	}
	return 0
}

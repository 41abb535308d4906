//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stockroom/stockroom/test/bench/report"
)

// machine describes what was measured on: the hardware, and the versions of all that
// took part. It names no host.
func (b *harness) machine(ctx context.Context) string {
	rows := [][]string{
		{"CPU", fmt.Sprintf("%s, %d cores", cpuModel(), runtime.NumCPU())},
		{"memory", memoryTotal()},
		{"a sync of the disk", b.syncTime()},
		{"kernel", firstOf(ctx, `[\d.]+`, "uname", "-sr")},
		{"commit", b.commit},
		{"Go", strings.TrimPrefix(runtime.Version(), "go")},
		{"chi", moduleVersion("github.com/go-chi/chi/v5")},
		{"PostgreSQL", b.setting(ctx, "server_version")},
		{"its settings", b.settings(ctx, "shared_buffers", "max_wal_size", "fsync", "synchronous_commit", "full_page_writes")},
		{"sources are compressed by", b.compression(ctx)},
		{"redis", firstOf(ctx, `v=(\S+)`, "redis-server", "--version")},
		{"webdis", firstOf(ctx, `.+`, "dpkg-query", "--show", "--showformat=${Version}", "webdis")},
		{"Node", firstOf(ctx, `v(\S+)`, "node", "--version")},
		{"PGlite", pgliteVersion()},
		{"stored", fmt.Sprintf("%s components, out of %s, %s bytes each on average (%s for pgbench)",
			report.Number(items), b.data.set.Source, report.Number(float64(b.data.set.Mean())), report.Number(float64(meanOf(b.data.sample))))},
		{"measured", fmt.Sprintf("rounds: %d, of %s each after a second of warming up; the medians", b.options.rounds, b.options.duration)},
	}
	return report.Table([]string{"what", "which"}, rows)
}

// syncTime is how long the disk takes to keep a page for good: what a commit costs,
// and so what writers gain that share one.
func (b *harness) syncTime() string {
	const writes = 200
	file, err := os.CreateTemp(b.dir, "sync-")
	if err != nil {
		return unknown
	}
	defer file.Close()
	page := make([]byte, 8<<10)
	took := make([]float64, writes)
	for i := range took {
		if _, err := file.Write(page); err != nil {
			return unknown
		}
		began := time.Now()
		if err := syscall.Fdatasync(int(file.Fd())); err != nil {
			return unknown
		}
		took[i] = float64(time.Since(began)) / float64(time.Microsecond)
	}
	return report.Number(report.Median(took)) + " µs for a page of 8 KiB"
}

func meanOf(bodies [][]byte) int {
	sum := 0
	for _, body := range bodies {
		sum += len(body)
	}
	return sum / max(len(bodies), 1)
}

const unknown = "not known"

// line returns what stands behind the name in a file of names and values.
func line(path, name string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return unknown
	}
	found := regexp.MustCompile(`(?m)^` + name + `\s*:\s*(.+)$`).FindSubmatch(content)
	if found == nil {
		return unknown
	}
	return string(found[1])
}

func cpuModel() string { return line("/proc/cpuinfo", "model name") }

func memoryTotal() string {
	kib, err := strconv.ParseFloat(strings.TrimSuffix(line("/proc/meminfo", "MemTotal"), " kB"), 64)
	if err != nil {
		return unknown
	}
	return fmt.Sprintf("%.0f GiB", kib/(1<<20))
}

// firstOf runs a program and returns what an expression finds first in its output:
// its first group, or all of it where it has none.
func firstOf(ctx context.Context, expression, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return "not installed"
	}
	found := regexp.MustCompile(expression).FindSubmatch(out)
	if found == nil {
		return unknown
	}
	return string(found[len(found)-1])
}

// commit is the one that is checked out; a plus says that there is more.
func commit(ctx context.Context) string {
	hash := firstOf(ctx, `[0-9a-f]+`, "git", "rev-parse", "--short=12", "HEAD")
	if out, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", ".", ":!docs").Output(); err == nil && len(out) > 0 {
		hash += "+"
	}
	return hash
}

func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return unknown
	}
	for _, module := range info.Deps {
		if module.Path == path {
			return strings.TrimPrefix(module.Version, "v")
		}
	}
	return unknown
}

func (b *harness) setting(ctx context.Context, name string) string {
	value, err := b.postgres.Text(ctx, database, "SHOW "+name)
	if err != nil {
		return unknown
	}
	return value
}

func (b *harness) settings(ctx context.Context, names ...string) string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = name + " " + b.setting(ctx, name)
	}
	return strings.Join(all, ", ") + "; those of the embedded one"
}

// compression is that of the column which holds most of what is stored.
func (b *harness) compression(ctx context.Context) string {
	name, err := b.postgres.Text(ctx, database, `SELECT CASE attcompression WHEN 'l' THEN 'lz4' ELSE current_setting('default_toast_compression') END
		FROM pg_attribute WHERE attrelid = 'components'::regclass AND attname = 'source_code'`)
	if err != nil {
		return unknown
	}
	return name
}

func pgliteVersion() string {
	content, err := os.ReadFile("test/bench/pglite/package.json")
	if err != nil {
		return unknown
	}
	var manifest struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	if err := json.Unmarshal(content, &manifest); err != nil {
		return unknown
	}
	return manifest.Dependencies["@electric-sql/pglite"]
}

package embeddedpg_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stockroom/stockroom/internal/embeddedpg"
)

// fakeBinaries makes a folder whose postgres only says a version.
func fakeBinaries(t *testing.T, parent, version string) string {
	t.Helper()
	dir := filepath.Join(parent, version, "bin")
	must(t, os.MkdirAll(dir, 0o755))
	script := fmt.Sprintf("#!/bin/sh\necho 'postgres (PostgreSQL) %s (Debian)'\n", version)
	for _, name := range []string{"postgres", "initdb"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return dir
}

func TestSearchOrder(t *testing.T) {
	parent := filepath.Dir(newDataDir(t))
	at := map[string]string{}
	for _, version := range []string{"9.6", "14.11", "15.4", "16.10", "16.9", "17beta1", "18.1", "19.1"} {
		at[version] = fakeBinaries(t, parent, version)
	}
	linked := filepath.Join(parent, "linked")
	must(t, os.Mkdir(linked, 0o755))
	must(t, os.Symlink(filepath.Join(at["15.4"], "postgres"), filepath.Join(linked, "postgres")))
	must(t, os.Symlink(filepath.Join(at["15.4"], "initdb"), filepath.Join(linked, "initdb")))
	all := []string{filepath.Join(parent, "*", "bin")}

	for _, tc := range []struct {
		name   string
		cfg    embeddedpg.Config
		want   int
		answer string
	}{
		{"the newest supported of a place", embeddedpg.Config{}.SearchOnly(all), 0, at["18.1"]},
		{"the newest minor of the data's major", embeddedpg.Config{}.SearchOnly(all), 16, at["16.10"]},
		{"a beta", embeddedpg.Config{}.SearchOnly(all), 17, at["17beta1"]},
		{"an earlier place before a newer version", embeddedpg.Config{}.SearchOnly([]string{at["15.4"]}, all), 0, at["15.4"]},
		{"the data's major before the order of the places", embeddedpg.Config{}.SearchOnly([]string{at["15.4"]}, all), 18, at["18.1"]},
		{"a link leads to the real folder", embeddedpg.Config{}.SearchOnly([]string{linked}), 0, at["15.4"]},
		{"places without any are passed over", embeddedpg.Config{}.SearchOnly([]string{parent}, []string{"/nowhere/*"}, all), 15, at["15.4"]},
		{"the folder that is set wins", embeddedpg.Config{BinDir: at["16.9"]}.SearchOnly(all), 0, at["16.9"]},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := embeddedpg.FindBinaries(t.Context(), tc.cfg, tc.want)
			must(t, err)
			if got != tc.answer {
				t.Errorf("got %s, want %s", got, tc.answer)
			}
		})
	}
	t.Run("unsupported ones are named", func(t *testing.T) {
		_, err := embeddedpg.FindBinaries(t.Context(), embeddedpg.Config{}.SearchOnly([]string{at["9.6"], at["14.11"], at["19.1"]}), 0)
		refused(t, err, embeddedpg.ErrNoBinaries, "9.6", "14.11", "19.1", "15 to 18")
	})
	t.Run("the folder that is set is no hint", func(t *testing.T) {
		_, err := embeddedpg.FindBinaries(t.Context(), embeddedpg.Config{BinDir: parent}.SearchOnly(all), 0)
		refused(t, err, embeddedpg.ErrNoBinaries, "STOCKROOM_POSTGRES_BIN", parent)
	})
}

func TestPATH(t *testing.T) {
	dir := fakeBinaries(t, filepath.Dir(newDataDir(t)), "18.3")
	t.Setenv("PATH", "bin:/nowhere:"+dir+":"+os.Getenv("PATH"))
	got, err := embeddedpg.FindBinaries(t.Context(), embeddedpg.Config{}, 18)
	must(t, err)
	if got != dir {
		t.Errorf("got %s", got)
	}
}

func TestNoBinaries(t *testing.T) {
	dir := newDataDir(t)
	_, err := embeddedpg.Start(t.Context(), quick(dir).SearchOnly([]string{"/nowhere/*/bin"}))
	refused(t, err, embeddedpg.ErrNoBinaries, "`make postgres`", "STOCKROOM_POSTGRES_BIN", "DATABASE_URL")
	if got := list(t, dir); got != "postgres.lock" {
		t.Errorf("left behind: %s", got)
	}
	start(t, quick(dir))
}

func TestBinariesThatDoNotRunAreNamed(t *testing.T) {
	dir := fakeBinaries(t, filepath.Dir(newDataDir(t)), "16.1")
	must(t, os.WriteFile(filepath.Join(dir, "postgres"), []byte("#!/bin/sh\necho 'cannot load libicu' >&2; exit 127\n"), 0o755))
	_, err := embeddedpg.FindBinaries(t.Context(), embeddedpg.Config{}.SearchOnly([]string{dir}), 0)
	refused(t, err, embeddedpg.ErrNoBinaries, dir, "cannot load libicu")
	// A missing loader looks like a missing file, and is another matter.
	must(t, os.WriteFile(filepath.Join(dir, "postgres"), []byte("#!/nowhere/ld.so\n"), 0o755))
	_, err = embeddedpg.FindBinaries(t.Context(), embeddedpg.Config{}.SearchOnly([]string{dir}), 0)
	refused(t, err, embeddedpg.ErrNoBinaries, dir, "does not run")
}

func TestBinariesThatCannotBeReached(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root's server runs PostgreSQL as another user")
	}
	parent := filepath.Dir(newDataDir(t))
	dir := fakeBinaries(t, parent, "16.1")
	must(t, os.Chmod(parent, 0o700))
	_, err := embeddedpg.FindBinaries(t.Context(), embeddedpg.Config{}.SearchOnly([]string{dir}), 0)
	refused(t, err, embeddedpg.ErrUnreachable, dir, parent+" (drwx------)", "make postgres")
}

func TestWrongMajor(t *testing.T) {
	for _, tc := range []struct {
		major string
		parts []string
	}{
		{"17", []string{"written by PostgreSQL 17", "only 16.1", "postgresql-17", "nothing was changed"}},
		{"14", []string{"written by PostgreSQL 14", "15 to 18", "nothing was changed"}},
		{"19", []string{"written by PostgreSQL 19", "15 to 18", "nothing was changed"}},
	} {
		t.Run(tc.major, func(t *testing.T) {
			dir := newDataDir(t)
			data := filepath.Join(dir, "postgres")
			must(t, os.MkdirAll(data, 0o700))
			must(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(tc.major+"\n"), 0o600))
			must(t, os.WriteFile(filepath.Join(data, "precious"), []byte("x"), 0o600))
			if os.Geteuid() == 0 {
				must(t, os.Chown(data, 65534, 65534))
			}
			other := fakeBinaries(t, filepath.Dir(dir), "16.1")
			_, err := embeddedpg.Start(t.Context(), quick(dir).SearchOnly([]string{other}))
			tc.parts = append(tc.parts, map[bool]string{true: other, false: "pg_upgrade"}[tc.major == "17"])
			refused(t, err, embeddedpg.ErrVersionMismatch, tc.parts...)
			if got := list(t, data); got != "PG_VERSION precious" {
				t.Errorf("the data were touched: %s", got)
			}
		})
	}
}

func TestRootsDataAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("we are not root")
	}
	dir := newDataDir(t)
	must(t, os.MkdirAll(filepath.Join(dir, "postgres"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "postgres", "PG_VERSION"), []byte("15\n"), 0o600))
	_, err := embeddedpg.Start(t.Context(), quick(dir))
	refused(t, err, embeddedpg.ErrUnreachable, "belongs to root", "chown -R")
}

func TestNPMFoldersStopAtAFolderForEveryone(t *testing.T) {
	parent := filepath.Dir(newDataDir(t))
	open := filepath.Join(parent, "open")
	project := filepath.Join(open, "project", "bin")
	must(t, os.MkdirAll(project, 0o755))
	must(t, os.Chmod(open, 0o777))
	t.Chdir(project)
	got := strings.Join(embeddedpg.NPMFolders(), "\n")
	for dir, want := range map[string]bool{project: true, filepath.Dir(project): true, open: false, parent: false} {
		if found := strings.Contains(got, dir+"/node_modules/"); found != want {
			t.Errorf("%s is searched: %v, want %v", dir, found, want)
		}
	}
}

// The script decides whether to install, this package what to run: they must mean the same.
func TestInAgreementWithTheScriptAndTheLockfile(t *testing.T) {
	root := filepath.Join("..", "..")
	script, err := os.ReadFile(filepath.Join(root, "scripts", "ensure-postgres.sh"))
	must(t, err)
	for _, want := range append(embeddedpg.SystemFolders, embeddedpg.SharedInstall,
		fmt.Sprintf("min_major=%d", embeddedpg.MinMajor), fmt.Sprintf("max_major=%d", embeddedpg.MaxMajor), fmt.Sprintf("npm_major=%d", embeddedpg.NPMMajor)) {
		if !regexp.MustCompile(`(?m)(^|[\s=])` + regexp.QuoteMeta(want) + `($|\s)`).Match(script) {
			t.Errorf("scripts/ensure-postgres.sh lacks %s", want)
		}
	}
	content, err := os.ReadFile(filepath.Join(root, "package.json"))
	must(t, err)
	var manifest struct {
		OptionalDependencies map[string]string `json:"optionalDependencies"`
	}
	must(t, json.Unmarshal(content, &manifest))
	for _, platform := range []string{"linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"} {
		version := manifest.OptionalDependencies["@embedded-postgres/"+platform]
		if !strings.HasPrefix(version, fmt.Sprintf("%d.", embeddedpg.NPMMajor)) {
			t.Errorf("package.json pins %s to %q", platform, version)
		}
	}
}

// Package buildinfo says which build this is.
package buildinfo

import "runtime/debug"

// unknown is the version of a build that nobody named.
const unknown = "dev"

// Version is set by the linker: -ldflags "-X <this package>.Version=v1.2.3".
// Read it through String, which knows what to say when it was not set.
var Version = unknown

// String returns the version that the linker was given; otherwise what the Go
// toolchain recorded (the module's version, as `go install …@v1.2.3` leaves it,
// or the commit); otherwise "dev". It is never empty.
func String() string {
	recorded, ok := debug.ReadBuildInfo()
	if !ok {
		recorded = &debug.BuildInfo{}
	}
	return version(Version, recorded)
}

func version(linked string, recorded *debug.BuildInfo) string {
	if linked != "" && linked != unknown {
		return linked
	}
	if v := recorded.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	var revision, modified string
	for _, s := range recorded.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			modified = s.Value
		}
	}
	if revision == "" {
		return unknown
	}
	v := unknown + "-" + revision[:min(12, len(revision))]
	if modified == "true" {
		v += "-dirty"
	}
	return v
}

//go:build !linux

package pgtest

import "os"

// dataParent is where the data of the embedded server go.
func dataParent() string { return os.TempDir() }

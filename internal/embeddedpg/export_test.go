package embeddedpg

import "context"

// SearchOnly replaces the places that are searched for binaries, one list of folders for each place.
func (cfg Config) SearchOnly(places ...[]string) Config {
	cfg.places = []place{} // not nil: nil means the usual ones
	for _, folders := range places {
		cfg.places = append(cfg.places, place{"a test's folders", folders})
	}
	return cfg
}

// FindBinaries answers the folder that Start would take for data of the major want (0: no data yet).
func FindBinaries(ctx context.Context, cfg Config, want int) (string, error) {
	who, err := chooseIdentity("")
	if err != nil {
		return "", err
	}
	bin, err := findBinaries(ctx, cfg, who, want)
	return bin.dir, err
}

var (
	SystemFolders = systemFolders
	NPMFolders    = npmFolders
)

const (
	MinMajor, MaxMajor = minMajor, maxMajor
	NPMMajor           = npmMajor
	SharedInstall      = sharedInstall
	MaxLogBytes        = maxLogBytes
)

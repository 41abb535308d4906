package embeddedpg

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// HasData tells whether a data folder holds a database.
func HasData(dataDir string) bool { return holdsData(layoutOf(dataDir).pgdata) }

// Attach returns the URL of the database "stockroom" on the PostgreSQL that another
// process runs on a data folder (ErrInUse), where that answers. It ends when that
// process wants it to.
func Attach(ctx context.Context, dataDir string) (string, error) {
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return "", err
	}
	files := layoutOf(dataDir)
	lock, err := os.Open(files.lock)
	if err != nil {
		return "", fmt.Errorf("embedded PostgreSQL: find the one that runs on %s: %w", dataDir, err)
	}
	defer lock.Close()
	socket := socketDir{path: files.run}
	if _, private := readLock(lock); private != "" {
		socket.path = private
	}
	s := &Server{files: files, socket: socket}
	if err := s.ping(ctx); err != nil {
		return "", fmt.Errorf("embedded PostgreSQL: connect to the one that runs on %s: %w", dataDir, err)
	}
	return s.DSN(), nil
}

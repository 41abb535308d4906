package embeddedpg

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

const (
	maxLogBytes = 8 << 20
	tailBytes   = 4 << 10
	tailLines   = 20
)

// logFile is what one run of postgres writes to: the end of the file, from start on.
type logFile struct {
	file  *os.File
	start int64
}

// openLog opens the log for appending. When it has grown large it is moved aside first; one old log is kept.
func openLog(path string) (*logFile, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Size() > maxLogBytes:
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	// PostgreSQL writes through the descriptor that it inherits, so the file may stay with this process's user.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	info, err = file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &logFile{file: file, start: info.Size()}, nil
}

// tail returns the last lines of this run, introduced by a line that names the file; it is made to stand at the end of
// an error message.
func (l *logFile) tail() string {
	file, err := os.Open(l.file.Name())
	if err != nil {
		return " (its log cannot be read: " + err.Error() + ")"
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return ""
	}
	content := make([]byte, tailBytes)
	n, _ := file.ReadAt(content, max(l.start, info.Size()-tailBytes))
	lines := strings.Split(strings.TrimSpace(string(content[:n])), "\n")
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	return "\nthe end of " + l.file.Name() + ":\n" + strings.Join(lines, "\n")
}

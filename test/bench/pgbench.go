//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/test/bench/hist"
	"github.com/stockroom/stockroom/test/bench/load"
)

// pgbenchScripts are the scripts of an operation for pgbench, of which it chooses
// one at random each time, with the values of the variables that they share. The
// statements are those of the service, to the byte, but for their parameters:
// pgbench takes 255 of them, so those that are always the same stand in the text.
type pgbenchScripts struct {
	scripts   []string
	variables map[string]string
}

// Where the arguments of a row of the upsert stand that are parameters for pgbench, too.
const (
	argName   = 0
	argSource = 2
)

func (d *dataset) pgbenchScripts(op operation) (*pgbenchScripts, error) {
	s := &pgbenchScripts{variables: make(map[string]string)}
	switch op {
	case opPut:
		for i, body := range d.sample {
			sql, err := s.upsert([][]byte{body}, i)
			if err != nil {
				return nil, err
			}
			s.scripts = append(s.scripts, fmt.Sprintf("\\set k%d random(%d, %d)\n%s;\n", i, firstName, firstName+items-1, sql))
		}
	case opMset:
		sql, err := s.upsert(d.sample, 0)
		if err != nil {
			return nil, err
		}
		var script strings.Builder
		fmt.Fprintf(&script, "\\set b random(%d, %d)\n", firstName, firstName+batches-1)
		for i := range d.sample {
			fmt.Fprintf(&script, "\\set k%d :b + %d\n", i, i*batches)
		}
		s.scripts = []string{script.String() + sql + ";\n"}
	case opMget:
		sql := repo.GetManyStatement(item.KindComponent)
		for b := range batches {
			s.variables["a"+strconv.Itoa(b)] = "{" + strings.Join(batchKeys(b), ",") + "}"
			s.scripts = append(s.scripts, strings.ReplaceAll(sql, "$1", ":a"+strconv.Itoa(b))+";\n")
		}
	case opGet:
		return nil, errors.New("pgbench does not measure GET")
	}
	return s, nil
}

// upsert returns the statement that stores bodies, whose names are the variables k
// from first on; their sources become variables.
func (s *pgbenchScripts) upsert(bodies [][]byte, first int) (string, error) {
	writes := make([]repo.Write, len(bodies))
	for i, body := range bodies {
		key, err := item.ComponentKey(framework, strconv.Itoa(firstName+i))
		if err != nil {
			return "", err
		}
		if writes[i].Value, err = item.Parse(key, body); err != nil {
			return "", err
		}
	}
	sql, args, err := repo.UpsertStatement(writes)
	if err != nil {
		return "", err
	}
	columns := len(args) / len(writes)
	var failure error
	sql = parameter.ReplaceAllStringFunc(sql, func(p string) string {
		n, err := strconv.Atoi(p[1:])
		if err != nil || n < 1 || n > len(args) {
			failure = fmt.Errorf("a parameter %s of %d", p, len(args))
			return p
		}
		row, column := first+(n-1)/columns, (n-1)%columns
		switch column {
		case argName:
			return ":k" + strconv.Itoa(row)
		case argSource:
			name := "v" + strconv.Itoa(row)
			source, ok := args[n-1].(string)
			if !ok {
				failure = fmt.Errorf("the source is a %T", args[n-1])
			}
			s.variables[name] = source
			return ":" + name
		}
		text, err := literal(args[n-1])
		failure = errors.Join(failure, err)
		return text
	})
	return sql, failure
}

var parameter = regexp.MustCompile(`\$\d+`)

// literal writes an argument into the text of a statement.
func literal(arg any) (string, error) {
	switch v := arg.(type) {
	case string:
		return quote(v), nil
	case nil:
		return "NULL", nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case int16:
		return strconv.FormatInt(int64(v), 10), nil
	}
	return "", fmt.Errorf("no literal for a %T", arg)
}

// quote writes a string so that pgbench finds no variable in it, which it would
// behind any colon.
func quote(text string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, ":", `\x3a`, "\n", `\n`, ";", `\x3b`).Replace(text) + "'"
}

// pgbench is PostgreSQL alone, asked by its own client.
type pgbench struct {
	b *harness
}

// measure runs an operation and reads from pgbench's log what was done when.
func (p *pgbench) measure(ctx context.Context, op operation, connections int, duration time.Duration) (measured, error) {
	scripts, err := p.b.data.pgbenchScripts(op)
	if err != nil {
		return measured{}, err
	}
	dir, err := os.MkdirTemp(p.b.dir, "pgbench-")
	if err != nil {
		return measured{}, err
	}
	defer os.RemoveAll(dir)
	program, err := p.b.postgres.Program("pgbench")
	if err != nil {
		return measured{}, err
	}
	// A second more, so that the end is never measured, when clients have left.
	whole := warmup + duration + time.Second
	args := []string{
		"--no-vacuum", "--protocol=prepared", "--client=" + strconv.Itoa(connections), "--jobs=2",
		"--time=" + strconv.Itoa(int(whole/time.Second)), "--log", "--log-prefix=" + filepath.Join(dir, "log"),
	}
	for name, value := range scripts.variables {
		args = append(args, "-D", name+"="+value)
	}
	for i, script := range scripts.scripts {
		path := filepath.Join(dir, strconv.Itoa(i)+".sql")
		if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
			return measured{}, err
		}
		args = append(args, "-f", path)
	}
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // the values of a registry are no commands
	cmd.Env = append(p.b.postgres.Env(database), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return p.b.account(nil, func() (*load.Result, *os.ProcessState, error) {
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("pgbench: %w: %.2000s", err, out)
		}
		result, err := readLogs(dir, warmup, duration)
		return result, cmd.ProcessState, err
	})
}

// readLogs reads the logs of pgbench's threads.
func readLogs(dir string, warmup, duration time.Duration) (*load.Result, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "log.*"))
	if err != nil {
		return nil, err
	}
	var done []transaction
	result := new(load.Result)
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		done, err = readLog(file, done, result)
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
	}
	summarize(result, done, warmup, duration)
	return result, nil
}

// transaction is one line of pgbench's log.
type transaction struct {
	end  time.Time
	took time.Duration
}

// readLog reads lines of "client number microseconds script seconds microseconds";
// instead of the first microseconds a transaction that failed has a word.
func readLog(from io.Reader, done []transaction, result *load.Result) ([]transaction, error) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 {
			return done, fmt.Errorf("pgbench's log: %q", lines.Text())
		}
		took, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			result.Errors++
			result.FirstError = lines.Text()
			continue
		}
		seconds, err1 := strconv.ParseInt(fields[4], 10, 64)
		micros, err2 := strconv.ParseInt(fields[5], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return done, fmt.Errorf("pgbench's log: %w", err)
		}
		done = append(done, transaction{end: time.Unix(seconds, micros*1000), took: time.Duration(took) * time.Microsecond})
	}
	return done, lines.Err()
}

// summarize fills result with what was done after the warm-up, which began with the
// first transaction.
func summarize(result *load.Result, done []transaction, warmup, duration time.Duration) {
	if len(done) == 0 {
		return
	}
	first := done[0].end.Add(-done[0].took)
	for _, t := range done {
		if begin := t.end.Add(-t.took); begin.Before(first) {
			first = begin
		}
	}
	start := first.Add(warmup)
	end := start.Add(duration)
	var latencies hist.Histogram
	for _, t := range done {
		if !t.end.Before(start) && !t.end.After(end) {
			latencies.Record(t.took)
		}
	}
	result.Sent = uint64(len(done))
	result.Requests = latencies.Count()
	result.PerSecond = float64(latencies.Count()) / duration.Seconds()
	result.P50, result.P99, result.Max = latencies.Quantile(0.5), latencies.Quantile(0.99), latencies.Max()
}

// Package config reads the server's configuration, which is its environment and
// nothing else.
//
// Config is the one place that names a variable, its default, its rule and its
// meaning: Load, the server's help and the README's table all come from it.
package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Config is the whole configuration. Load returns it checked.
//
// The tags: env and envDefault are the variable and its default, min and max its
// bounds (written as the variable is), about its line in the documentation.
type Config struct {
	DatabaseURL DSN     `env:"DATABASE_URL" about:"PostgreSQL to use; empty: the embedded one"`
	Addr        Address `env:"STOCKROOM_ADDR" envDefault:"127.0.0.1:8080" about:"where to listen; port 0 picks one, which is logged and written to server.addr in the data folder"`
	DataDir     string  `env:"STOCKROOM_DATA_DIR" envDefault:"./data" about:"folder of the embedded PostgreSQL"`
	PostgresBin string  `env:"STOCKROOM_POSTGRES_BIN" about:"folder of PostgreSQL's binaries; empty: look in the usual places"`

	Migrate MigrateMode `env:"STOCKROOM_MIGRATE" envDefault:"auto" about:"at the start: bring the schema up to date, refuse an older one, or do not look"`

	MaxBytes   Bytes         `env:"STOCKROOM_MAX_BYTES" envDefault:"1GiB" min:"0" about:"limit of the store's size; 0: none"`
	DefaultTTL time.Duration `env:"STOCKROOM_DEFAULT_TTL" envDefault:"0" min:"0s" max:"876600h" about:"lifetime of what is written without a ttl, in whole seconds; 0: for ever"`

	DBMaxConcurrency int           `env:"STOCKROOM_DB_MAX_CONCURRENCY" envDefault:"16" min:"1" max:"10000" about:"requests that do database work at once"`
	DBQueueLength    int           `env:"STOCKROOM_DB_QUEUE_LENGTH" envDefault:"1024" min:"0" about:"requests that may wait for their turn"`
	DBQueueTimeout   time.Duration `env:"STOCKROOM_DB_QUEUE_TIMEOUT" envDefault:"5s" min:"1ms" about:"how long each of them may wait"`

	BreakerFailures int           `env:"STOCKROOM_BREAKER_FAILURES" envDefault:"5" min:"1" about:"failures of the database in a row that open the circuit breaker"`
	BreakerTimeout  time.Duration `env:"STOCKROOM_BREAKER_TIMEOUT" envDefault:"30s" min:"1ms" about:"how long it stays open before a probe"`

	CacheBytes        Bytes         `env:"STOCKROOM_CACHE_BYTES" envDefault:"64MiB" min:"0" about:"size of the read cache; 0: off"`
	CacheMaxStaleness time.Duration `env:"STOCKROOM_CACHE_MAX_STALENESS" envDefault:"1s" min:"1ms" about:"how old a cached item may be while other servers' changes are not heard"`

	AccessFlushInterval time.Duration `env:"STOCKROOM_ACCESS_FLUSH_INTERVAL" envDefault:"1s" min:"1ms" about:"how often access times and counts are written; less often where that takes much of the time"`
	SweepInterval       time.Duration `env:"STOCKROOM_SWEEP_INTERVAL" envDefault:"30s" min:"1ms" about:"how often expired items are deleted"`

	MaxBodyBytes   Bytes         `env:"STOCKROOM_MAX_BODY_BYTES" envDefault:"8MiB" min:"1" about:"limit of a request's body"`
	MaxBatch       int           `env:"STOCKROOM_MAX_BATCH" envDefault:"1000" min:"1" about:"limit of the keys in one batch"`
	RequestTimeout time.Duration `env:"STOCKROOM_REQUEST_TIMEOUT" envDefault:"30s" min:"1ms" about:"how long a request may take"`
	ShutdownGrace  time.Duration `env:"STOCKROOM_SHUTDOWN_GRACE" envDefault:"15s" min:"1ms" about:"how long requests in flight may take to end at shutdown"`

	APIKeysFile   string `env:"STOCKROOM_API_KEYS_FILE" file:"readable" about:"API keys, one id:sha256:scopes a line, read again on SIGHUP; empty: no keys"`
	AllowInsecure bool   `env:"STOCKROOM_ALLOW_INSECURE" envDefault:"false" about:"listen beyond loopback, and answer browsers under any name, without API keys"`
	TLSCertFile   string `env:"STOCKROOM_TLS_CERT_FILE" file:"readable" about:"certificate chain (PEM); empty: plain HTTP"`
	TLSKeyFile    string `env:"STOCKROOM_TLS_KEY_FILE" file:"readable" about:"its private key (PEM)"`
	RateLimit     int    `env:"STOCKROOM_RATE_LIMIT" envDefault:"0" min:"0" about:"requests per second and client; 0: no limit"`

	LogLevel  LogLevel  `env:"STOCKROOM_LOG_LEVEL" envDefault:"info" about:"least level that is logged"`
	LogFormat LogFormat `env:"STOCKROOM_LOG_FORMAT" envDefault:"json" about:"form of a line of the log"`

	// Warnings are the variables that look like ours and are not, one sentence
	// each. They are there whether or not Load found mistakes: a misspelt
	// variable is often the cause of one.
	Warnings []string `env:"-"`
}

// TLS reports whether the server speaks HTTPS.
func (c Config) TLS() bool { return c.TLSCertFile != "" }

// Mistakes is the error of Load: everything that is wrong, in the order of
// Config, one line each.
type Mistakes []string

// Error returns the lines.
func (m Mistakes) Error() string { return strings.Join(m, "\n") }

// Load reads the configuration from environ, which maps a variable to its value.
// A variable that is set to nothing has its default. Load reads files' metadata,
// never their content.
//
// The error is a Mistakes. No mistake and no warning shows the value of a
// variable that may hold a secret.
func Load(environ map[string]string) (Config, error) {
	if environ == nil {
		environ = map[string]string{} // env would take the process's own instead
	}
	c := Config{Warnings: warnings(environ)}
	err := env.ParseWithOptions(&c, env.Options{Environment: environ})

	var mistakes Mistakes
	unreadable := parseErrors(err)
	for f := range fields() {
		value := reflect.ValueOf(c).FieldByIndex(f.Index).Interface()
		if unreadable[f.Name] || outOfBounds(value, f.Tag) {
			mistakes = append(mistakes, mistake(f, environ, expected(f)))
		} else if path, ok := value.(string); ok && f.Tag.Get("file") != "" {
			if reason := fileProblem(path); reason != "" {
				mistakes = append(mistakes, mistake(f, environ, "a readable file ("+reason+")"))
			}
		}
	}
	mistakes = append(mistakes, c.contradictions(unreadable)...)
	if len(mistakes) > 0 {
		return c, mistakes
	}
	return c, nil
}

// contradictions are the mistakes of variables that are right one by one.
func (c Config) contradictions(unreadable map[string]bool) (mistakes Mistakes) {
	if c.DefaultTTL%time.Second != 0 {
		mistakes = append(mistakes, fmt.Sprintf("STOCKROOM_DEFAULT_TTL=%q: expected whole seconds", c.DefaultTTL))
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		mistakes = append(mistakes, "STOCKROOM_TLS_CERT_FILE and STOCKROOM_TLS_KEY_FILE: expected both or neither")
	}
	if !unreadable["Addr"] && !unreadable["AllowInsecure"] {
		if err := CheckExposure(c.Addr, c.APIKeysFile != "", c.AllowInsecure); err != nil {
			mistakes = append(mistakes, err.Error())
		}
	}
	return mistakes
}

// CheckExposure is the rule that a server without API keys listens on loopback
// only, unless it was told otherwise by name.
func CheckExposure(addr Address, keys, allowInsecure bool) error {
	if keys || allowInsecure || addr.Loopback() {
		return nil
	}
	return fmt.Errorf("STOCKROOM_ADDR=%q: expected a loopback address, since anyone who reaches another could read and delete everything; set STOCKROOM_API_KEYS_FILE, or STOCKROOM_ALLOW_INSECURE=true to do without keys", addr)
}

// parseErrors returns the names of the fields whose variable could not be read.
// The errors' texts are dropped: they may quote a secret.
func parseErrors(err error) map[string]bool {
	names := map[string]bool{}
	if all, ok := errors.AsType[env.AggregateError](err); ok {
		for _, e := range all.Errors {
			one, ok := errors.AsType[env.ParseError](e)
			if !ok {
				// Not of the environment's making: a field that env cannot read.
				panic(fmt.Sprintf("config: %v", e))
			}
			names[one.Name] = true
		}
	}
	return names
}

// outOfBounds reports whether the value is outside of the tags min and max.
func outOfBounds(value any, tag reflect.StructTag) bool {
	n, ok := number(value)
	if !ok {
		return false
	}
	below, above := tag.Get("min"), tag.Get("max")
	return below != "" && n < parseBound(value, below) || above != "" && n > parseBound(value, above)
}

func number(value any) (int64, bool) {
	switch v := value.(type) {
	case int:
		return int64(v), true
	case Bytes:
		return int64(v), true
	case time.Duration:
		return int64(v), true
	default:
		return 0, false
	}
}

// parseBound reads a bound written as values of the type of like are. A bound
// that cannot be read is a mistake in Config, which every test would meet.
func parseBound(like any, text string) int64 {
	var n int64
	var err error
	switch like.(type) {
	case Bytes:
		var b Bytes
		err = b.UnmarshalText([]byte(text))
		n = int64(b)
	case time.Duration:
		var d time.Duration
		d, err = time.ParseDuration(text)
		n = int64(d)
	default:
		n, err = strconv.ParseInt(text, 10, 64)
	}
	if err != nil {
		panic(fmt.Sprintf("config: bound %q: %v", text, err))
	}
	return n
}

// fileProblem says why a file that was named cannot be read, or nothing.
func fileProblem(path string) string {
	if path == "" {
		return ""
	}
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return "it is a folder"
	}
	// Opening a pipe would wait for its writer.
	if err == nil && info.Mode().IsRegular() {
		var f *os.File
		if f, err = os.Open(path); err == nil {
			err = f.Close()
		}
	}
	if err == nil {
		return ""
	}
	if cause := errors.Unwrap(err); cause != nil { // without the path, which the mistake names
		err = cause
	}
	return err.Error()
}

// mistake is one line: the variable, its value unless that may be secret, and
// what was expected.
func mistake(f reflect.StructField, environ map[string]string, want string) string {
	name := f.Tag.Get("env")
	if f.Type == reflect.TypeFor[DSN]() {
		return name + ": expected " + want + " (the value is not shown: it may hold a password)"
	}
	const longest = 100
	value := []rune(environ[name])
	if len(value) > longest {
		value = append(value[:longest], '…')
	}
	return fmt.Sprintf("%s=%q: expected %s", name, string(value), want)
}

// expected says in words what the field's variable may be.
func expected(f reflect.StructField) string {
	var what string
	switch f.Type {
	case reflect.TypeFor[DSN]():
		return "postgres://user:password@host:5432/database, with special characters in the password percent-encoded, or keyword=value pairs"
	case reflect.TypeFor[Address]():
		return "host:port, such as 127.0.0.1:8080 or [::1]:8080"
	case reflect.TypeFor[Bytes]():
		what = "a size such as 1048576, 512KiB, 64MiB or 1GiB"
	case reflect.TypeFor[time.Duration]():
		what = "a duration such as 500ms, 30s or 5m"
	case reflect.TypeFor[int]():
		what = "a whole number"
	default:
		return kind(f.Type)
	}
	below, above := f.Tag.Get("min"), f.Tag.Get("max")
	switch {
	case above != "":
		what += ", " + below + " to " + above
	case below == "0":
		what += ", 0 or more"
	case below != "":
		what += ", at least " + below
	}
	return what
}

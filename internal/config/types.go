package config

import (
	"errors"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Bytes is a size. It is written as a whole number, alone or followed by KiB,
// MiB or GiB.
type Bytes int64

// The units that a size may be written in.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
)

var units = []struct {
	suffix string
	size   Bytes
}{{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}

var errSize = errors.New("not a size")

// UnmarshalText reads a size; it accepts nothing that String does not write,
// save that a larger unit need not be used.
func (b *Bytes) UnmarshalText(text []byte) error {
	number, factor := string(text), Bytes(1)
	for _, u := range units {
		if n, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = n, u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || strings.ContainsAny(number, "+-") || n > int64(math.MaxInt64/factor) {
		return errSize
	}
	*b = Bytes(n) * factor
	return nil
}

// String writes the size in the largest unit that holds it exactly.
func (b Bytes) String() string {
	for _, u := range units {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// DSN is a PostgreSQL connection string. It holds a password: whoever prints,
// logs or marshals it gets the password hidden. Reveal is the way to the whole.
type DSN string

// hidden stands for a connection string that cannot be shown in part.
const hidden = "(hidden)"

var errDSN = errors.New("not a connection string")

// keyword matches the start of a keyword/value connection string.
var keyword = regexp.MustCompile(`^\s*[a-z_]+\s*=`)

// UnmarshalText refuses what is clearly no connection string. The driver has the
// last word when it connects.
func (d *DSN) UnmarshalText(text []byte) error {
	s := string(text)
	if !isURL(s) && !keyword.MatchString(s) {
		return errDSN
	}
	// A URL of several hosts (h1:1,h2:2) is PostgreSQL's own, net/url refuses it.
	if isURL(s) && !strings.Contains(s, ",") {
		if _, err := url.Parse(s); err != nil {
			return errDSN // never err itself: it quotes the URL
		}
	}
	*d = DSN(s)
	return nil
}

func isURL(s string) bool {
	return strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

// Reveal returns the connection string with its password, for the driver.
func (d DSN) Reveal() string { return string(d) }

// String returns user, host and database of a URL, and "(hidden)" for anything
// whose parts cannot be told apart with certainty.
func (d DSN) String() string {
	if d == "" {
		return ""
	}
	u, err := url.Parse(string(d))
	if err != nil || !isURL(string(d)) {
		return hidden
	}
	// An unescaped /, ? or # in a password ends the host early, and its rest
	// is taken for a path: then there is an @ too many.
	if strings.Contains(u.Path+u.RawQuery+u.Fragment, "@") {
		return hidden
	}
	// Parameters can hold secrets as well (password, sslpassword).
	u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = "", false, "", ""
	return u.Redacted()
}

// GoString is String: %#v hides the password too.
func (d DSN) GoString() string { return d.String() }

// LogValue is String, for slog.
func (d DSN) LogValue() slog.Value { return slog.StringValue(d.String()) }

// MarshalText is String, for encoding/json.
func (d DSN) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Address is where the server listens: host:port. An empty host means every
// address of the machine, port 0 one that the system picks.
type Address string

var errAddress = errors.New("not an address")

// UnmarshalText accepts host:port with a numeric port.
func (a *Address) UnmarshalText(text []byte) error {
	host, port, err := net.SplitHostPort(string(text))
	if err != nil || strings.ContainsAny(host, " /@") {
		return errAddress
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errAddress
	}
	*a = Address(text)
	return nil
}

// Loopback reports whether only this machine reaches the address. A name other
// than localhost counts as reachable: what it resolves to may change.
func (a Address) Loopback() bool {
	host, _, err := net.SplitHostPort(string(a))
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// MigrateMode says what a server does about the database's schema at its start.
type MigrateMode string

// The modes of STOCKROOM_MIGRATE.
const (
	MigrateAuto  MigrateMode = "auto"  // bring the schema up to date
	MigrateCheck MigrateMode = "check" // refuse to start on an older schema
	MigrateOff   MigrateMode = "off"   // do not look
)

// UnmarshalText accepts the three modes.
func (m *MigrateMode) UnmarshalText(text []byte) error {
	return oneOf(m, text, MigrateAuto, MigrateCheck, MigrateOff)
}

// LogFormat is the form of a line of the log.
type LogFormat string

// The forms of STOCKROOM_LOG_FORMAT.
const (
	LogJSON LogFormat = "json"
	LogText LogFormat = "text"
)

// UnmarshalText accepts the two forms.
func (f *LogFormat) UnmarshalText(text []byte) error {
	return oneOf(f, text, LogJSON, LogText)
}

// LogLevel is the least level that is logged. It is a slog.Leveler.
type LogLevel string

// The levels of STOCKROOM_LOG_LEVEL.
const (
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// UnmarshalText accepts the four levels.
func (l *LogLevel) UnmarshalText(text []byte) error {
	return oneOf(l, text, LogDebug, LogInfo, LogWarn, LogError)
}

// Level returns the level as slog counts it; the zero LogLevel is info.
func (l LogLevel) Level() slog.Level {
	switch l {
	case LogDebug:
		return slog.LevelDebug
	case LogWarn:
		return slog.LevelWarn
	case LogError:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

var errChoice = errors.New("not one of the choices")

// oneOf sets dst to the choice that text spells, in any case.
func oneOf[T ~string](dst *T, text []byte, choices ...T) error {
	for _, c := range choices {
		if strings.EqualFold(string(text), string(c)) {
			*dst = c
			return nil
		}
	}
	return errChoice
}

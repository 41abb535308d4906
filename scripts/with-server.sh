#!/usr/bin/env bash
# Runs COMMAND with a server of its own: an empty store on an embedded PostgreSQL,
# on a free port of the loopback interface. STOCKROOM_URL says where it is. With
# --keys it wants API keys: STOCKROOM_API_KEY has every scope, STOCKROOM_WRITE_KEY
# reads and writes, STOCKROOM_READ_KEY reads. Other STOCKROOM_* variables of the
# caller reach the server. Afterwards the server is stopped and its data are
# removed; the exit code is COMMAND's, or 1 where the server did not end well.
set -euo pipefail

keys=
if [ "${1:-}" = --keys ]; then keys=yes; shift; fi
[ $# -gt 0 ] || { echo "usage: $0 [--keys] COMMAND..." >&2; exit 2; }

root=$(cd "$(dirname "$0")/.." && pwd)
say() { echo "with-server: $*" >&2; }
unset DATABASE_URL
make -s -C "$root" build
"$root/scripts/ensure-postgres.sh"

tmp=$(mktemp -d)
# The user that PostgreSQL runs as, where we are root, has to pass through.
chmod 0711 "$tmp"
pid=
stop() {
  local status=$?
  if [ -n "$pid" ]; then
    kill -TERM "$pid" 2>/dev/null || true
    if ! wait "$pid"; then
      say "the server did not end well"
      status=$((status ? status : 1))
    fi
    [ "$status" = 0 ] || sed "s/^/with-server: /" "$tmp/log" >&2
  fi
  rm -rf "$tmp"
  exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

export STOCKROOM_ADDR=127.0.0.1:0 STOCKROOM_DATA_DIR=$tmp/data STOCKROOM_LOG_LEVEL=${STOCKROOM_LOG_LEVEL:-warn}
if [ -n "$keys" ]; then
  # key NAME SCOPES: adds a key to the file, and prints it
  key() {
    local made
    made=$("$root/bin/server" keygen "$1" "$2" 2>&1)
    sed -n 's/^line for [^:]*: *//p' <<<"$made" >>"$tmp/keys"
    sed -n 's/^key[^:]*: *//p' <<<"$made"
  }
  all_key=$(key all read,write,admin)
  write_key=$(key write read,write)
  read_key=$(key read read)
  export STOCKROOM_API_KEYS_FILE=$tmp/keys
fi

"$root/bin/server" </dev/null >"$tmp/log" 2>&1 &
pid=$!
end=$((SECONDS + 120))
until "$root/bin/server" healthcheck >/dev/null 2>&1; do
  kill -0 "$pid" 2>/dev/null || { say "the server ended before it was ready"; exit 1; }
  [ "$SECONDS" -lt "$end" ] || { say "the server is not ready after 120 s"; exit 1; }
  sleep 0.1
done
STOCKROOM_URL=http://$(<"$STOCKROOM_DATA_DIR/server.addr")
export STOCKROOM_URL
if [ -n "$keys" ]; then
  export STOCKROOM_API_KEY=$all_key STOCKROOM_WRITE_KEY=$write_key STOCKROOM_READ_KEY=$read_key
fi
"$@"

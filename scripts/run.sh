#!/usr/bin/env bash
# Starts bin/server as `make run` does: with a PostgreSQL at hand and a data
# folder that it can reach.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${DATABASE_URL:-}" ]; then
  # PostgreSQL never runs as root; as root, the server starts it as this user.
  if [ "$(id -u)" = 0 ] && [ -z "${STOCKROOM_DATA_DIR:-}" ]; then
    user=nobody
    if id -u postgres >/dev/null 2>&1; then user=postgres; fi
    if ! su -s /bin/sh "$user" -c 'test -x "$0"' "$PWD" </dev/null; then
      export STOCKROOM_DATA_DIR=/var/lib/stockroom
      echo "run: the user $user cannot reach $PWD; the data goes to $STOCKROOM_DATA_DIR (STOCKROOM_DATA_DIR overrides)" >&2
    fi
  fi
  scripts/ensure-postgres.sh
fi

# Outside a terminal the server takes this process's place, so that signals reach it.
if ! [ -t 0 ]; then exec bin/server; fi

# In a terminal make would die of the same ctrl-C that stops the server. So the
# server gets a process group of its own, which alone receives it (set -m). When
# this script goes first (a closed window), its end of the pipe closes, and the
# watcher tells the server to stop.
exec 3> >(trap '' INT HUP TERM; read -r pid && cat >/dev/null && kill -TERM "$pid" 2>/dev/null)
set -m
sh -c 'echo $$ >&3; exec bin/server 3>&-'

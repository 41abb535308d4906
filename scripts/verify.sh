#!/usr/bin/env bash
# Checks what the compiler does not: generated code, migrations, module files,
# format. Names everything that is wrong, and changes nothing, so that it works on
# a tree with uncommitted changes too.
set -euo pipefail
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad=0
wrong() { echo "verify: $*" >&2; bad=1; }
# named PATTERN: our files of that name
named() { find . \( -name node_modules -o -name .git -o -path ./data -o -path ./bin \) -prune -o -type f -name "$1" -print; }

# A tree with nothing but what the generators read.
targets=(generate/go) generated=(internal/http/api.gen.go clients/go/api/api.gen.go)
tar -cf - Makefile go.mod go.sum tools/go.mod tools/go.sum openapi.yaml internal/http/oapi-codegen.yaml \
  clients/go/oapi-codegen.yaml clients/go/no-responses.tmpl | tar -xf - -C "$tmp"
mkdir "$tmp/clients/go/api"
if [ "${SKIP_NODE:-}" = 1 ]; then
  echo "verify: the TypeScript client is skipped, for SKIP_NODE=1"
else
  targets+=(generate/typescript) generated+=(clients/typescript/src/openapi.gen.ts)
  client=clients/typescript
  make -s "$client/node_modules/.package-lock.json" >"$tmp/log" 2>&1 || { wrong "npm ci fails:"; cat "$tmp/log" >&2; }
  mkdir -p "$tmp/$client/src"
  cp -p "$client"/package{,-lock}.json "$tmp/$client/"
  ln -s "$PWD/$client/node_modules" "$tmp/$client/node_modules"
fi
if ! make -s -C "$tmp" "${targets[@]}" >"$tmp/log" 2>&1; then
  wrong "make generate fails:"; cat "$tmp/log" >&2
else
  for file in "${generated[@]}"; do
    diff -u "$file" "$tmp/$file" >"$tmp/log" 2>&1 && continue
    wrong "$file is not what openapi.yaml says (make generate):"; head -40 "$tmp/log" >&2
  done
fi

next=1
for up in db/migrations/*.up.sql; do
  name=$(basename "$up" .up.sql)
  number=${name%%_*}
  if ! [[ $number =~ ^[0-9]+$ ]] || [ "$((10#$number))" != "$next" ]; then
    wrong "$up: the number should be $next"
  fi
  [ -f "db/migrations/$name.down.sql" ] || wrong "$up has no $name.down.sql"
  next=$((next + 1))
done
for down in db/migrations/*.down.sql; do
  [ -f "${down%.down.sql}.up.sql" ] || wrong "$down has no up migration"
done
for file in db/migrations/*; do
  [[ $file == *.up.sql || $file == *.down.sql ]] || wrong "$file is no migration"
  # golang-migrate sends a file as one batch, which is one transaction already
  if grep -qiE '^[[:space:]]*(begin|commit|rollback)[[:space:]]*;' "$file"; then
    wrong "$file: no BEGIN, COMMIT or ROLLBACK in a migration"
  fi
  if [ "$(grep -ciE '^[[:space:]]*create[[:space:]]+(unique[[:space:]]+)?index' "$file")" -gt 1 ]; then
    wrong "$file: one CREATE INDEX a file, so that each can be built and undone alone"
  fi
done

while read -r mod; do
  dir=$(dirname "$mod")
  go -C "$dir" mod tidy -diff >"$tmp/log" 2>&1 || { wrong "$mod is not tidy (go mod tidy):"; head -20 "$tmp/log" >&2; }
  go -C "$dir" mod verify >"$tmp/log" 2>&1 || { wrong "$mod: modules differ from go.sum:"; cat "$tmp/log" >&2; }
done < <(named go.mod)

unformatted=$(named '*.go' | tr '\n' '\0' | xargs -0 gofmt -l)
[ -z "$unformatted" ] || wrong "not formatted (make fmt): ${unformatted//$'\n'/ }"

[ "$bad" = 0 ] || exit 1
echo "verify: all in order"

#!/usr/bin/env bash
# Builds the service's image, with the binaries of this machine, and runs it against
# PostgreSQL in a container: becomes healthy, is ready, keeps an item, is backed up and
# restored, stops cleanly.
# Needs a Docker engine and a PostgreSQL image (STOCKROOM_TEST_POSTGRES_IMAGE), but no
# registry. Listens on loopback only, and removes what it made.
set -euo pipefail
cd "$(dirname "$0")/.."
postgres_image=${STOCKROOM_TEST_POSTGRES_IMAGE:-postgres:17-alpine}

tmp=$(mktemp -d)
base=stockroom-image-test:$$ image='' server='' postgres=''
cleanup() {
  status=$?
  if [ "$status" != 0 ] && [ -n "$server" ]; then docker logs --tail 50 "$server" >&2 || true; fi
  docker rm --force --volumes ${server:+"$server"} ${postgres:+"$postgres"} >/dev/null 2>&1 || true
  docker image rm --force ${image:+"$image"} "$base" >/dev/null || true
  rm -rf "$tmp"
}
trap cleanup EXIT
say() { echo "image-test: $*"; }
fail() { echo "image-test: $*" >&2; exit 1; }
# within SECONDS COMMAND...: COMMAND succeeds before then
within() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ "$SECONDS" -lt "$end" ] || return 1; sleep 0.5; done
}

make -s build
mkdir "$tmp/rootfs" "$tmp/data"
cp bin/server bin/import "$tmp/rootfs/"
docker build --quiet --target runtime --tag "$base" --build-arg RUNTIME_IMAGE=scratch -f Dockerfile "$tmp" >/dev/null
docker build --quiet --iidfile "$tmp/iid" -f - "$tmp" >/dev/null <<END
FROM $base
COPY rootfs/ /
COPY --chown=65532:65532 data /data
END
image=$(cat "$tmp/iid")
say "built $(docker image inspect -f '{{.Size}}' "$image") bytes"

password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
postgres=$(docker run --detach -e POSTGRES_USER=stockroom -e POSTGRES_DB=stockroom \
  -e POSTGRES_PASSWORD="$password" "$postgres_image")
within 90 docker exec "$postgres" pg_isready -h 127.0.0.1 -U stockroom -d stockroom ||
  { docker logs --tail 30 "$postgres" >&2; fail "PostgreSQL did not start"; }
host=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$postgres")

server=$(docker run --detach --publish 127.0.0.1::8080 --read-only --cap-drop ALL \
  --tmpfs /data:uid=65532,gid=65532,mode=0700 -e STOCKROOM_ALLOW_INSECURE=true \
  -e DATABASE_URL="postgres://stockroom@$host:5432/stockroom?sslmode=disable" \
  -e PGPASSWORD="$password" "$image")
healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$server")" = healthy ]; }
within 60 healthy || fail "not healthy: $(docker inspect -f '{{json .State}}' "$server")"
say "healthy"

url=http://$(docker port "$server" 8080/tcp)
request() { curl --silent --show-error --fail --max-time 10 "$@"; }
request "$url/readyz" >/dev/null || fail "/readyz is not 200"
request -X PUT -H 'Content-Type: application/json' -d '{"a":1}' "$url/v1/items/image-test" >/dev/null || fail "PUT fails"
[ "$(request "$url/v1/items/image-test")" = '{"a":1}' ] || fail "GET answers another value than was put"
say "ready, and keeps an item"

docker exec "$server" /server export - >"$tmp/backup.ndjson"
request -X DELETE "$url/v1/items/image-test" >/dev/null || fail "DELETE fails"
docker exec --interactive "$server" /import - <"$tmp/backup.ndjson" >/dev/null || fail "the backup is not restored"
[ "$(request "$url/v1/items/image-test")" = '{"a":1}' ] || fail "GET answers another value than was backed up"
say "is backed up and restored"

docker stop --time 45 "$server" >/dev/null
code=$(docker inspect -f '{{.State.ExitCode}}' "$server")
[ "$code" = 0 ] || fail "SIGTERM ended the server with $code"
say "stopped cleanly"

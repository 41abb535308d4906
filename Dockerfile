# No BuildKit syntax: Docker's classic builder builds this file too.
ARG GO_IMAGE=golang:1.26
ARG RUNTIME_IMAGE=scratch

# Everything but the files; first, so that scripts/image-test.sh can have it without Go.
FROM ${RUNTIME_IMAGE} AS runtime
LABEL org.opencontainers.image.title="Stockroom" org.opencontainers.image.licenses="Apache-2.0"
# TMPDIR: an import from standard input is kept there until it has been checked to its end.
ENV STOCKROOM_ADDR=0.0.0.0:8080 STOCKROOM_DATA_DIR=/data TMPDIR=/data
EXPOSE 8080
# Beyond loopback the server wants keys (STOCKROOM_API_KEYS_FILE), or to be told
# that it may do without (STOCKROOM_ALLOW_INSECURE). The database is DATABASE_URL's.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/server", "healthcheck"]
USER 65532:65532
ENTRYPOINT ["/server"]

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN make build VERSION="$VERSION" \
 && mkdir -p /data /rootfs/etc/ssl/certs \
 && cp bin/server bin/import /rootfs/ \
 && cp /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/

FROM runtime
COPY --from=build /rootfs/ /
COPY --from=build --chown=65532:65532 /data /data

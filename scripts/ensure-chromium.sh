#!/bin/sh
# Makes sure that there is a Chromium for the test of the reference page (`make chromium`).
#
# Silent when there is one, or when SKIP_NODE=1 says that the test is left out. Otherwise root gets Debian's package,
# and everybody else is told what to do.
set -eu

if [ "${SKIP_NODE:-}" = 1 ] || [ -n "${STOCKROOM_TEST_CHROMIUM:-}" ]; then
	exit 0
fi

for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
	if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if [ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ]; then
	exit 0
fi

say() { printf '%s\n' "ensure-chromium: $*" >&2; }

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	say "no Chromium on this machine, which the test of the reference page needs. Install it (Debian: apt-get install" \
		"chromium), say where one is by STOCKROOM_TEST_CHROMIUM, or leave the test out by SKIP_NODE=1."
	exit 1
fi
say "no Chromium on this machine: installing Debian's package"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium >/dev/null

#!/bin/bash
# $1 is gatewayctl, $2 an empty directory: each thing that may not be read or written has one clear
# error with its remedy. Run by root, the gateway is started as somebody else.
set -euo pipefail
gatewayctl=$1 dir=$2
fail() { echo "FAIL: $*" >&2; exit 1; }
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; else "$@"; fi; }
cp "$gatewayctl" "$dir/gatewayctl" && gatewayctl=$dir/gatewayctl
chmod 755 "$dir" "$gatewayctl"
refused() { # TEXT REMEDY DATA
	local code=0
	as timeout 20 "$gatewayctl" serve --mqtt-addr 127.0.0.1:0 --https-addr 127.0.0.1:0 --data "$3" >"$dir/out" 2>"$dir/err" || code=$?
	[ $code = 1 ] || fail "serve --data $3 ended with $code: $(cat "$dir/err")"
	grep -q "$1" "$dir/err" || fail "the error does not name $1: $(cat "$dir/err")"
	grep -qi "$2" "$dir/err" || fail "the remedy is not told ($2): $(cat "$dir/err")"
}
mkdir -m 755 "$dir/closed"
[ "$(id -u)" = 0 ] || chmod 500 "$dir/closed"
refused "$dir/closed/data" "right to write" "$dir/closed/data"
mkdir -m 000 "$dir/locked"
refused "$dir/locked" "right\|permission" "$dir/locked"

# A good one, with a key that may not be read.
mkdir -m 700 "$dir/good"
[ "$(id -u)" != 0 ] || chown 65534:65534 "$dir/good"
printf 'mdns: {announce: false}\n' >"$dir/good/gatewayctl.yaml" && chmod 644 "$dir/good/gatewayctl.yaml"
as timeout 20 "$gatewayctl" serve --mqtt-addr 127.0.0.1:0 --https-addr 127.0.0.1:0 --data "$dir/good" >"$dir/out" 2>"$dir/err" & serve=$!
as "$gatewayctl" wait --data "$dir/good"
kill -INT "$(as "$gatewayctl" status --json --data "$dir/good" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')"
wait $serve || fail "serve ended with $?"
key=$(echo "$dir"/good/keys/intermediate-*.key)
chmod 000 "$key"
refused intermediate- "right\|permission\|chmod" "$dir/good"

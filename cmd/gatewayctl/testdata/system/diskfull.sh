#!/bin/bash
# Runs in a mount namespace of its own: $1 is gatewayctl, $2 an empty directory. The data lies on a
# small file system that gets full: nothing that was acknowledged is lost, nothing that cannot be
# kept is acknowledged, and everything goes on when there is room.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
gatewayctl=$1 dir=$2
say() { echo "$*" >&2; }
fail() { say "FAIL: $*"; [ ! -f serve.log ] || tail -5 serve.log >&2; exit 1; }
eventually() { # SECONDS COMMAND...
	local end=$((SECONDS + $1)); shift
	until "$@" >"$dir/last" 2>&1; do
		[ $SECONDS -lt $end ] || { cat "$dir/last" >&2; fail "not in time: $*"; }
		read -rt 0.1 <> <(:) || true
	done
}
mount --make-rprivate /
mkdir "$dir/data"
mount -t tmpfs -o size=6M tmpfs "$dir/data"
cd "$dir"
cat >data/gatewayctl.yaml <<X
listeners:
  mqtt:  {type: mqtts, address: "127.0.0.1:0"}
  https: {type: https, address: "127.0.0.1:0"}
mdns: {announce: false}
bridge:
  upstreams:
    - {name: away, url: "mqtt://127.0.0.1:1", rules: [{local: "+/data", direction: up}]}
X
$gatewayctl serve --data data 2>serve.log & serve=$!
$gatewayctl wait --data data
$gatewayctl provision lamp --out certs --data data >/dev/null
port=$($gatewayctl status --data data | sed -n 's/.*mqtt mqtts at 127.0.0.1:\([0-9]*\),.*/\1/p')
pub() { local version=$1; shift; timeout 10 mosquitto_pub -V "$version" -h localhost -p "$port" --cafile certs/ca.crt --cert certs/lamp.crt --key certs/lamp.key -i lamp -t lamp/data -q 1 "$@"; }
waiting() { $gatewayctl bridge status --json --data data | grep '"depth_messages"' | tr -dc 0-9; }

pub 5 -m before
[ "$(waiting)" = 1 ] || fail "$(waiting) messages wait, want 1"

# Full to the last byte.
dd if=/dev/zero of=data/filler bs=4k >/dev/null 2>&1 || true
head -c 200000 /dev/zero | tr '\0' x >big
refused() { ! pub 5 -f big -d || grep -q 'RC:151' "$dir/last"; }
eventually 20 refused
pub 5 -f big -d >last 2>&1 || true
grep -Eq 'PUBACK.*RC:151|Quota exceeded' last || { cat last >&2; fail "5.0 was not told 0x97"; }
if pub 311 -f big -d >last 2>&1 && grep -q PUBACK last; then cat last >&2; fail "3.1.1 got an acknowledgment"; fi
kept=$(waiting)
$gatewayctl status --data data >/dev/null || fail "the gateway does not answer"
if $gatewayctl firmware add big --data data 2>err; then fail "an image went onto a full disk"; fi
grep -qi 'full\|space' err || fail "the reason is not told: $(cat err)"
grep -q 'Make room' err || fail "the remedy is not told: $(cat err)"

# Room again: everything goes on by itself.
rm data/filler
again() { pub 5 -m after; }
eventually 20 again
[ "$(waiting)" -gt "$kept" ] || fail "nothing was kept after there was room"

# And what was acknowledged before is still there after a crash.
depth=$(waiting)
kill -KILL $serve; wait $serve || true
$gatewayctl serve --data data 2>serve.log & serve=$!
$gatewayctl wait --data data
[ "$(waiting)" -ge "$depth" ] || fail "$(waiting) messages are left of $depth"
kill -INT $serve
wait $serve || fail "serve ended with $?"
say ok

#!/bin/bash
# Runs in a network and a mount namespace of its own: $1 is gatewayctl, $2 an empty directory.
# This namespace is the gateway's machine, with an Avahi; a second one, joined by a cable, is its
# neighbour, with another Avahi.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
gatewayctl=$1 dir=$2
say() { echo "$*" >&2; }
fail() { say "FAIL: $*"; exit 1; }
eventually() { # SECONDS COMMAND...
	local end=$((SECONDS + $1)); shift
	until "$@" >"$dir/last" 2>&1; do
		[ $SECONDS -lt $end ] || { cat "$dir/last" >&2; fail "not in time: $*"; }
		read -rt 0.2 <> <(:) || true
	done
}
machine='mount -t tmpfs tmpfs /run; mkdir /run/avahi-daemon; ip link set lo up'
mount --make-rprivate /
eval "$machine"
unshare --net --mount sh -c "$machine; echo up > $dir/neighbour; exec sleep 300" & neighbour=$!
eventually 10 test -s "$dir/neighbour"
there() { nsenter -t $neighbour -n -m -- env DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus "$@"; }
here() { env DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus "$@"; }

ip link add lan type veth peer name lan netns $neighbour
ip addr add 10.77.0.1/24 dev lan && ip link set lan up
there ip addr add 10.77.0.2/24 dev lan && there ip link set lan up

cat >"$dir/bus.conf" <<X
<busconfig><listen>unix:path=/run/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
X
for side in here there; do
	printf '[server]\nhost-name=%s\nenable-dbus=yes\n[publish]\npublish-workstation=no\npublish-hinfo=no\n' "machine-$side" >"$dir/$side.conf"
	$side dbus-daemon --nofork --config-file="$dir/bus.conf" &
	eventually 10 $side test -S /run/bus
	$side avahi-daemon --no-drop-root --no-chroot --no-rlimits -f "$dir/$side.conf" 2>"$dir/$side.log" &
	eventually 10 grep -q 'startup complete' "$dir/$side.log"
done
there avahi-publish -s 'mOS-esp32-A1B2C3' _http._tcp 80 id=esp32_A1B2C3 arch=esp32 app=demo fw_version=1.0 fw_id=x &
there avahi-publish -s shellyplus1pm-a8032abe54dc _shelly._tcp 80 gen=2 app=Plus1PM ver=1.4.4 &
there avahi-publish -s 'Kitchen lamp' _esphomelib._tcp 6053 version=2026.1 &
here avahi-publish -s 'broker next door' _mqtt._tcp 1883 &

$gatewayctl serve --data "$dir/data" 2>"$dir/serve.log" & serve=$!
$gatewayctl wait --data "$dir/data"

# Avahi hears the gateway, on its own machine and on the neighbour's.
fingerprint=$($gatewayctl status --data "$dir/data" | sed -n 's/^CA fingerprint *//p')
heard() { $1 avahi-browse -rptk "$2" | grep '^=' | grep -F ";10.77.0.1;" | grep -F "ca-sha256=$fingerprint" | grep -F '"id=' | grep -F '"version='; }
for side in here there; do
	eventually 20 heard $side _secure-mqtt._tcp
	eventually 20 heard $side _gatewayctl._tcp
done
grep -q ';8443;' "$dir/last" || fail "the port is not in $(cat "$dir/last")"

# The gateway hears what Avahi announces.
complete() { # on a busy machine one look may not be enough
	$gatewayctl discover --timeout 3s --json --data "$dir/data" >"$dir/found.json"
	for what in mongoose-os shelly esphome mqtt-broker gatewayctl; do grep -q "\"kind\": \"$what\"" "$dir/found.json" || return 1; done
}
eventually 30 complete
for kind in mongoose-os shelly esphome mqtt-broker gatewayctl; do
	grep -q "\"kind\": \"$kind\"" "$dir/found.json" || { cat "$dir/found.json" >&2; fail "no $kind was found"; }
done
grep -q '"id": "esp32_A1B2C3"' "$dir/found.json" || fail "the device's id was not found"
listed() { $gatewayctl discover --timeout 3s --data "$dir/data" | grep 'Kitchen lamp.*esphome.*10.77.0.2:6053'; }
eventually 30 listed

# A new address: in the certificate that is served, and announced, without a restart.
ip addr add 10.77.0.9/24 dev lan
named() { openssl s_client -connect 10.77.0.9:8883 -servername hub </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName | grep -F 'IP Address:10.77.0.9'; }
eventually 30 named
announced() { there avahi-browse -rptk _secure-mqtt._tcp | grep -F ';10.77.0.9;'; }
eventually 30 announced
kill -0 $serve || fail "the gateway has ended"

# It says goodbye.
kill -INT $serve
wait $serve || fail "serve ended with $?"
silent() { ! there avahi-browse -rptk _gatewayctl._tcp | grep '^='; }
eventually 10 silent
say ok

#!/usr/bin/env bash
# Boots systemd in a fresh Debian root and runs there what deploy/README.md tells to run, in its order.
# Then the service listens on port 443, is reloaded, upgraded and stopped. As root.
#
# systemd.sh FOLDER   (the unpacked archive of `make dist`)
set -euo pipefail
cd "$(dirname "$0")/../.."
archive=$(realpath "$1")

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
tests/release/root systemd,systemd-sysv,curl,openssl >"$root.tar"
tar --extract --directory "$root" --exclude './dev/*' --file "$root.tar"
rm "$root.tar"
cp -r "$archive" "$root/opt/hookstile"

# The commands of the page.
sed -n '/<!-- systemd commands -->/,/^```$/p' deploy/README.md | grep -v -e '^<!--' -e '^```' >"$root/opt/commands"
[ -s "$root/opt/commands" ] || { echo "deploy/README.md has no commands for systemd" >&2; exit 1; }

cat >"$root/opt/test" <<'END'
set -eux
export WEBHOOK_SECRET=whsec_of_some_length
cd /opt/hookstile
. /opt/commands
systemctl is-enabled hookstile

# A signed event reaches an application.
hookstile catch --listen 127.0.0.1:3000 >/tmp/received &
hookstile send http://127.0.0.1:8080/webhooks/vpn-enterprise --provider vpn-enterprise --secret-env WEBHOOK_SECRET

# Port 443, with a certificate that is a credential.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=hooks.example.com \
  -addext subjectAltName=DNS:hooks.example.com -keyout /etc/hookstile/secrets/key.pem -out /etc/hookstile/secrets/chain.pem
mkdir -p /etc/systemd/system/hookstile.service.d
cat >/etc/systemd/system/hookstile.service.d/tls.conf <<'UNIT'
[Service]
LoadCredential=chain.pem:/etc/hookstile/secrets/chain.pem
LoadCredential=key.pem:/etc/hookstile/secrets/key.pem
UNIT
credentials=/run/credentials/hookstile.service
sed -i "s|^listen:.*|listen: [{address: 0.0.0.0:443, tls: {certificate: $credentials/chain.pem, key: $credentials/key.pem}}]|" /etc/hookstile/hookstile.yaml
systemctl daemon-reload
systemctl restart hookstile
curl --silent --cacert /etc/hookstile/secrets/chain.pem --resolve hooks.example.com:443:127.0.0.1 --output /dev/null --write-out '%{http_code}\n' \
  --request POST https://hooks.example.com/webhooks/vpn-enterprise | grep -x 401

# The page's check as root, a reload, and an upgrade in place.
hookstile check --config /etc/hookstile/hookstile.yaml
systemctl reload hookstile
opened() { journalctl --unit hookstile --output cat | grep --count '"store opened"'; }
process=$(systemctl show --property MainPID --value hookstile)
before=$(opened)
systemctl kill --kill-whom=main -s USR2 hookstile
for _ in $(seq 100); do
  [ "$(opened)" = "$before" ] || break
  sleep 0.1
done
[ "$(opened)" = $((before + 1)) ]
[ "$(systemctl show --property MainPID --value hookstile)" = "$process" ]
until hookstile status --config /etc/hookstile/hookstile.yaml; do sleep 0.1; done
systemctl stop hookstile
[ "$(systemctl show --property Result --value hookstile)" = success ]
echo passed >/opt/result
END
cat >"$root/etc/systemd/system/try.service" <<'END'
[Unit]
After=basic.target
Wants=network-online.target
[Service]
Type=oneshot
ExecStart=/bin/bash /opt/test
ExecStopPost=/bin/bash -c 'journalctl -u hookstile --no-pager >/opt/journal; systemctl --no-block poweroff'
StandardOutput=file:/opt/output
StandardError=file:/opt/output
TimeoutStartSec=120
END
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../try.service "$root/etc/systemd/system/multi-user.target.wants/try.service"

timeout 180 systemd-nspawn --quiet --directory "$root" --private-network --register=no --keep-unit --boot >"$root/console" 2>&1 || true
if [ "$(cat "$root/opt/result" 2>/dev/null)" != passed ]; then
  cat "$root/opt/output" "$root/opt/journal" >&2 || tail -n 30 "$root/console" >&2
  exit 1
fi
echo "systemd: passed"

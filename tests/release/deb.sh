#!/usr/bin/env bash
# Installs the Debian package in a fresh root, runs what it brings, and removes it again. As root.
#
# deb.sh PACKAGE.deb
set -euo pipefail
cd "$(dirname "$0")/../.."
package=$(realpath "$1")

# Running as root is this machine's way, not the package's.
lintian --fail-on error,warning "$package" 2> >(grep -v "root privileges" >&2)

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
tests/release/root "" | tar --extract --directory "$root" --exclude './dev/*'
cp "$package" "$root/opt/hookstile.deb"
cp deploy/systemd/hookstile.yaml "$root/opt/"
cat >"$root/opt/test" <<'END'
set -eux
before=$(find / -xdev -name '*hookstile*' -not -path '/proc/*' -not -path '/opt/*')
[ -z "$before" ]
apt-get -qq install -y --no-install-recommends /opt/hookstile.deb
dpkg --verify hookstile
hookstile --version
# What is installed does what it says, before there is any configuration but the package's.
[ "$(stat --format '%a %U' /etc/hookstile/secrets)" = "700 root" ]
install -d /run/credentials/hookstile.service
echo whsec_of_some_length >/run/credentials/hookstile.service/webhook-secret
hookstile check --config /etc/hookstile/hookstile.yaml
once=
! hookstile demo --help | grep -q -e --once || once=--once
hookstile demo $once >/tmp/demo 2>&1 || { cat /tmp/demo; exit 1; }
tail -n 1 /tmp/demo
[ -s /usr/share/man/man1/hookstile-check.1.gz ]
[ -s "$(sed -n '1s/.*\$schema=//p' /etc/hookstile/hookstile.yaml)" ]
grep -q '^ExecStart=/usr/bin/hookstile run' /usr/lib/systemd/system/hookstile.service
# A changed configuration stays, through a new installation and a removal; a purge leaves nothing.
echo '# mine' >>/etc/hookstile/hookstile.yaml
apt-get -qq install -y --reinstall --no-install-recommends /opt/hookstile.deb </dev/null
grep -q '^# mine' /etc/hookstile/hookstile.yaml
dpkg --remove hookstile
[ ! -e /usr/bin/hookstile ]
[ -e /etc/hookstile/hookstile.yaml ]
dpkg --purge hookstile
rm -rf /run/credentials /tmp/demo
find / -xdev -name '*hookstile*' -not -path '/proc/*' -not -path '/opt/*' -not -path '/var/log/*' >/opt/left
[ ! -s /opt/left ] || { cat /opt/left; exit 1; }
END
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin unshare --mount --pid --fork bash -c 'mount --types proc proc "$1/proc" && exec chroot "$1" /bin/bash /opt/test' - "$root"
echo "deb: passed"

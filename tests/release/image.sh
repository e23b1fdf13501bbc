#!/usr/bin/env bash
# Runs the image from its root file system as its user, with a read-only root, a data volume and without
# capabilities; a signed event passes, and the health check says so. As root, without a daemon.
#
# image.sh IMAGE.tar [MOST-MIB]
set -euo pipefail
image=$(realpath "$1")
most=${2:-40}

folder=$(mktemp -d)
export STORAGE_DRIVER=vfs
buildah() { command buildah --root "$folder/storage" --runroot "$folder/run" "$@"; }
end() {
  kill "${gateway:-}" "${application:-}" 2>/dev/null || true
  umount --recursive --lazy "$folder/root" 2>/dev/null || true
  buildah rm --all >/dev/null 2>&1 || true
  rm -rf "$folder"
}
trap end EXIT

container=$(buildah from --pull-never "docker-archive:$image")
root=$(buildah mount "$container")
buildah inspect "$container" >"$folder/inspect.json"
read -r user entrypoint command health <<<"$(python3 - "$folder/inspect.json" <<'END'
import json, sys
docker = json.load(open(sys.argv[1]))["Docker"]["config"]
assert docker["Volumes"] == {"/var/lib/hookstile": {}}, docker
assert set(docker["ExposedPorts"]) == {"8080/tcp", "9180/tcp"}, docker
assert docker["StopSignal"] in ("SIGTERM", "15"), docker
labels = {name.removeprefix("org.opencontainers.image."): value for name, value in docker["Labels"].items()}
missing = {"title", "description", "version", "revision", "licenses", "source"} - set(labels)
assert not missing, missing
check = docker["Healthcheck"]["Test"]
assert check[0] == "CMD", check
print(docker["User"], *docker["Entrypoint"], "|".join(docker["Cmd"]), "|".join(check[1:]))
END
)"
[ "$user" = 65532:65532 ]
[ "$(stat --format=%u:%a "$root/var/lib/hookstile")" = 65532:700 ]
size=$(($(du --summarize --bytes "$root" | cut -f 1) / 1048576))
[ "$size" -lt "$most" ] || { echo "the image has $size MiB, $most at most" >&2; exit 1; }

# What `docker run --read-only --cap-drop ALL -v VOLUME:/var/lib/hookstile -e WEBHOOK_SECRET` does, except for
# the network.
mkdir "$folder/root" "$folder/volume"
cp --archive "$root/var/lib/hookstile/." "$folder/volume/"
chown --reference "$root/var/lib/hookstile" "$folder/volume" && chmod --reference "$root/var/lib/hookstile" "$folder/volume"
mount --bind "$root" "$folder/root"
mount --options remount,bind,ro "$folder/root"
mount --types proc proc "$folder/root/proc"
mount --bind "$folder/volume" "$folder/root/var/lib/hookstile"
# Free ports, since this machine has one network.
read -r data admin app <<<"$(python3 -c 'import socket
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(socket.getsockname()[1] for socket in taken))')"
sed -e "s/0.0.0.0:8080/127.0.0.1:$data/; s/127.0.0.1:9180/127.0.0.1:$admin/; s|http://app:3000|http://127.0.0.1:$app|" \
  "$root/etc/hookstile/hookstile.yaml" >"$folder/hookstile.yaml"
chmod 644 "$folder/hookstile.yaml"
mount --bind "$folder/hookstile.yaml" "$folder/root/etc/hookstile/hookstile.yaml"
inside() {
  "${of_image[@]}" "$@"
}
of_image=(env -i PATH=/usr/sbin:/usr/bin WEBHOOK_SECRET=whsec_of_some_length chroot --userspec="$user" --groups="${user#*:}" "$folder/root")
IFS='|' read -ra command <<<"$command"
IFS='|' read -ra health <<<"$health"

if inside "$entrypoint" init --output /tmp/written 2>/dev/null; then
  echo "the root is not read-only" >&2
  exit 1
fi
inside "$entrypoint" --version
"${of_image[@]}" "$entrypoint" "${command[@]}" 2>"$folder/log" &
gateway=$!
for _ in $(seq 100); do
  ! inside "${health[@]}" >/dev/null 2>&1 || break
  sleep 0.1
done
inside "${health[@]}" || { cat "$folder/log" >&2; exit 1; }
"${of_image[@]}" "$entrypoint" catch --listen "127.0.0.1:$app" >/dev/null 2>&1 &
application=$!
for _ in $(seq 100); do
  ! inside "$entrypoint" send "http://127.0.0.1:$data/webhooks/vpn-enterprise" --provider vpn-enterprise --secret-env WEBHOOK_SECRET \
    >"$folder/sent" 2>&1 || break
  sleep 0.1
done
grep '^200 delivered' "$folder/sent" || { cat "$folder/sent" "$folder/log" >&2; exit 1; }
[ "$(stat --format %u "$folder/volume/hookstile.db")" = "${user%:*}" ]
kill "$gateway"
wait "$gateway"
echo "image: passed, $size MiB"

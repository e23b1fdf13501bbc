"""The peers: how each is started, and what it claims to do. The configurations are in `peers/`."""

import base64
import getpass
import platform
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
THIRD_PARTY = REPOSITORY / "target/third-party/bench"
NGINX_MODULES = Path("/usr/lib/nginx/modules")
# The same as in `src/event.rs`.
SECRET = "whsec_4f1c8a70d2b94f0e8b6a53c7d91e2f60"

# Settings that keep HAProxy's big buffers from being returned to the system after each request and
# requested again.
MALLOC_TUNED = {
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
}


@dataclass(frozen=True)
class Peer:
    name: str
    title: str
    # With `{{…}}` for values that are known only at the start: see `fill`.
    command: str
    # The configuration, written to the run's folder first, with its values filled in.
    configuration: str | None = None
    # The files and programs without which the peer is skipped.
    needs: tuple[str, ...] = ()
    verifies: bool = True
    stops_replays: bool = False
    # False for an application that verifies for itself, without a gateway in front.
    forwards: bool = True
    # It answers first and delivers later: its CPU time counts until all events are delivered.
    delivers_later: bool = False
    # It is measured for the table that names it, and not beside the others.
    of_one_table: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    # It listens with TLS, and speaks HTTP/1.1 and HTTP/2.
    tls: bool = False
    # Text that is put into its configuration.
    values: dict[str, str] = field(default_factory=dict)
    # The command that prints its version, or the crate that it is built from.
    version: str | None = None
    crate: str | None = None

    def missing(self, places):
        """Returns what the peer needs and this machine lacks."""
        needed = [fill(need, places) for need in self.needs]
        return [need for need in needed if not (Path(need).exists() or shutil.which(need))]


def fill(text, values):
    return re.sub(r"\{\{(\w+)\}\}", lambda match: str(values[match[1]]), text)


def places(hookstile, tools):
    """Returns the values that are the same for all peers and runs."""
    return {
        "hookstile": hookstile,
        "tools": tools,
        "peers": HERE / "peers",
        "receivers": REPOSITORY / "tests/receivers",
        "third_party": THIRD_PARTY,
        "nginx_modules": NGINX_MODULES,
        "machine": platform.machine(),
        "user": getpass.getuser(),
        "secret": SECRET,
        "secret_base64": base64.b64encode(SECRET.encode()).decode(),
    }


NGINX_CERTIFICATE = "ssl_certificate {{certificates}}/certificate.pem;\n    ssl_certificate_key {{certificates}}/key.pem;"


def hookstile(name, title, variant="", sender="provider: vpn-enterprise", tls=False, **more):
    certificate = ", tls: {certificate: {{certificates}}/certificate.pem, key: {{certificates}}/key.pem}"
    return Peer(
        name,
        title,
        "{{hookstile}} run --config {{configuration}}",
        configuration="hookstile/hookstile.yaml",
        needs=("{{hookstile}}",),
        stops_replays=True,
        tls=tls,
        values={"variant": variant, "sender": sender, "secrets": "{env: WEBHOOK_SECRET}", "tls": certificate if tls else ""},
        version="{{hookstile}} --version",
        **more,
    )


def nginx(name, title, configuration, modules=(), tls=False, values=(), **more):
    return Peer(
        name,
        title,
        "nginx -p {{run}} -c {{configuration}}",
        configuration=f"nginx/{configuration}",
        needs=("nginx", *(str(NGINX_MODULES / module) for module in modules)),
        tls=tls,
        values={**dict(values), "tls": " ssl http2" if tls else "", "certificate": NGINX_CERTIFICATE if tls else ""},
        version="nginx -v",
        **more,
    )


def haproxy(name, title, configuration, tls=False, paths="", **more):
    return Peer(
        name,
        title,
        "haproxy -db -f {{configuration}}",
        configuration=f"haproxy/{configuration}",
        needs=("haproxy",),
        tls=tls,
        values={"tls": " ssl crt {{certificates}}/both.pem alpn h2,http/1.1" if tls else "", "paths": paths},
        version="haproxy -v",
        **more,
    )


def own(name, title, command, **more):
    program = "{{tools}}/" + command.split()[0]
    return Peer(name, title, "{{tools}}/" + command, needs=(program,), **more)


# What the provider's name stands for. With the name, a window that is shorter than its retries is refused.
SENDER = 'signature: {header: X-VPN-Signature, prefix: "sha256="}'
EXPIRING = "    replay: {window: 1s}\n    retain: {for: 1s}"
# The store is passed on to the next process, and this one ends as soon as it is asked to.
KEPT = "store: {path: {{store}}}\nshutdown: {drain: 0s}"
# As nginx's configuration has it.
ONE_PATH = "http-request return status 404 unless { path /webhooks/vpn-enterprise }"
LUA = ("ndk_http_module.so", "ngx_http_lua_module.so")

PEERS = [
    hookstile("hookstile", "**hookstile**"),
    hookstile("hookstile-relaxed", "hookstile, `durability: relaxed`", "store: {durability: relaxed}"),
    hookstile("hookstile-memory", "hookstile, the store on a RAM disk", "store: {path: {{ram}}}"),
    hookstile("hookstile-queue", "hookstile, `delivery: queue`", "    delivery: queue", delivers_later=True),
    hookstile("hookstile-expiring", "hookstile, everything kept for 1 s", EXPIRING, SENDER, of_one_table=True),
    hookstile("hookstile-kept", "hookstile", KEPT, of_one_table=True),
    hookstile("hookstile-tls", "**hookstile**", tls=True, of_one_table=True),
    own("hyper", "hyper proxy", "peer-hyper {{listen}} {{upstream}}", crate="hyper"),
    own(
        "hyper-replay",
        "hyper proxy + IDs in memory",
        "peer-hyper {{listen}} {{upstream}} --replay",
        stops_replays=True,
        crate="hyper",
    ),
    own("floor-durable", "durable floor: epoll, IDs on disk", "peer-floor {{listen}} {{upstream}} {{run}}", stops_replays=True),
    haproxy("haproxy-hmac", "HAProxy `hmac`", "hmac.cfg"),
    haproxy("haproxy-hmac-tuned", "HAProxy `hmac`, malloc tuned", "hmac.cfg", environment=MALLOC_TUNED),
    haproxy("haproxy-replay", "HAProxy `hmac` + stick-table", "replay.cfg", stops_replays=True),
    haproxy(
        "haproxy-replay-tuned",
        "HAProxy `hmac` + stick-table, malloc tuned",
        "replay.cfg",
        stops_replays=True,
        environment=MALLOC_TUNED,
    ),
    haproxy("haproxy-replay-tls", "HAProxy `hmac` + stick-table", "replay.cfg", stops_replays=True, tls=True, of_one_table=True),
    nginx("nginx-lua", "nginx + Lua", "lua.conf", LUA, values={"check": "signature"}),
    nginx(
        "nginx-lua-replay",
        "nginx + Lua, shared dictionary",
        "lua.conf",
        LUA,
        stops_replays=True,
        values={"check": "signature_and_replay"},
    ),
    nginx(
        "nginx-lua-replay-tls",
        "nginx + Lua, shared dictionary",
        "lua.conf",
        LUA,
        stops_replays=True,
        values={"check": "signature_and_replay"},
        tls=True,
        of_one_table=True,
    ),
    nginx("nginx-njs", "nginx + njs", "njs.conf", ("ngx_http_js_module.so",)),
    Peer(
        "express",
        "Express, the provider's sample",
        "node {{peers}}/express/app.js",
        needs=("node", "{{third_party}}/node_modules/express"),
        forwards=False,
        environment={"NODE_ENV": "production", "NODE_PATH": str(THIRD_PARTY / "node_modules")},
        version="node -p \"'node '+process.version+', express '+require('{{third_party}}/node_modules/express/package').version\"",
    ),
    Peer(
        "flask",
        "Flask, the provider's sample, gunicorn",
        "{{third_party}}/venv/bin/gunicorn --chdir {{peers}}/flask --pythonpath {{receivers}} --bind {{listen}} --workers 1"
        " --worker-class gthread --threads 8 --keep-alive 75 --no-control-socket app:app",
        needs=("{{third_party}}/venv/bin/gunicorn",),
        forwards=False,
        environment={"PYTHONDONTWRITEBYTECODE": "1"},
        version="{{third_party}}/venv/bin/python -c \"from importlib.metadata import version as v;"
        "print('flask', v('flask'), 'gunicorn', v('gunicorn'))\"",
    ),
    Peer(
        "webhook",
        "Debian's `webhook`, running `/bin/true`",
        "webhook -hooks {{configuration}} -ip 127.0.0.1 -port {{port}} -urlprefix webhooks",
        configuration="webhook/hooks.json",
        needs=("webhook",),
        forwards=False,
        version="webhook -version",
    ),
    nginx("nginx", "nginx, bare", "bare.conf", verifies=False),
    haproxy("haproxy", "HAProxy, bare", "bare.cfg", verifies=False),
    nginx("nginx-tls", "nginx, bare", "bare.conf", verifies=False, tls=True, of_one_table=True),
    haproxy("haproxy-tls", "HAProxy, bare", "bare.cfg", verifies=False, tls=True, paths=ONE_PATH, of_one_table=True),
    own("pingora", "Pingora, bare", "peer-pingora {{listen}} {{upstream}}", verifies=False, crate="pingora-proxy"),
    own("direct", "no gateway: straight at the application", "upstream {{listen}}", verifies=False, forwards=False),
]

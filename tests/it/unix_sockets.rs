//! Listeners and upstreams on Unix sockets, and listeners that are named by a host's name.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixListener, UnixStream};

use crate::harness::upstream::NeverAccepts;
use crate::harness::*;

/// A folder with a path for a socket in it.
fn socket_path() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    (folder, path)
}

/// Configures a listener on a Unix socket, beside one on TCP. `keys` are further keys of it.
fn listening(route: Route, path: &Path, keys: &str) -> Setup {
    let listen = format!(
        r#"[{{address: "unix:{}"{keys}}}, {{address: "127.0.0.1:0"}}]"#,
        path.display()
    );
    Setup::from(route)
        .with("listen", &listen)
        .stopping_at_once()
}

async fn connect(path: &Path) -> Client<UnixStream> {
    let client = Client::connect_unix(path).await;
    client.unwrap_or_else(|| panic!("nobody listens on {}", path.display()))
}

/// A Unix socket in front of an upstream, which counts the connections.
struct Door {
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Door {
    fn open(path: &Path, upstream: &Upstream) -> Self {
        let socket = UnixListener::bind(path).expect("a socket");
        let (to, connections) = (upstream.address(), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((mut inside, _)) = socket.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut outside = TcpStream::connect(to).await.expect("the upstream");
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                });
            }
        });
        Self { connections, task }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Stops accepting. The file stays, as after a crash.
    async fn close(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn to_socket(path: &Path) -> String {
    format!(
        "{{url: \"http://app.test/hook\", socket: \"{}\"}}",
        path.display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_listener_serves_and_tidies_up() {
    let (upstream, (_folder, path)) = (Upstream::ok(), socket_path());
    // A process that was killed leaves its file behind.
    drop(StdUnixListener::bind(&path).expect("a socket"));
    let setup = listening(Route::to(&upstream), &path, r#", mode: "0600""#);
    let mut gateway = Gateway::start(setup).await;
    let file = fs::symlink_metadata(&path).expect("a file");
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    let mut client = connect(&path).await;
    for event in ["evt_1", "evt_2"] {
        let response = client.send(Event::new(event).post()).await;
        response.assert(200, "delivered");
    }
    upstream.last().assert_no_header("x-forwarded-for");
    let mut h2 = connect(&path).await.h2().await;
    let response = h2.send(Event::new("evt_3").post()).await;
    response.assert(200, "delivered");
    // No address is claimed for the sender.
    let line = gateway
        .wait_for_request_log(json!({"event_id": "evt_1"}))
        .await;
    assert!(line["peer"].is_null(), "{line}");
    assert!(gateway.stop().await.success());
    assert!(!path.exists(), "the file goes with the socket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateway_finds_its_socket_again() {
    let (upstream, (_folder, path)) = (Upstream::ok(), socket_path());
    let mut gateway = Gateway::start(listening(Route::to(&upstream), &path, "")).await;
    gateway.kill().await;
    assert!(path.exists());
    gateway.restart().await;
    let response = connect(&path).await.send(Event::new("evt_1").post()).await;
    response.assert(200, "delivered");
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o660, "the default");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_left_behind_is_kept() {
    let (upstream, (folder, path)) = (Upstream::ok(), socket_path());
    let refuses = async |path: &Path, named: &str| {
        let setup = listening(Route::to(&upstream), path, "");
        let (code, output) = Gateway::refuses(setup).await;
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains(named), "{output}");
        assert!(
            output.contains(&format!("unix:{}", path.display())),
            "{output}"
        );
    };
    {
        let _in_use = StdUnixListener::bind(&path).expect("a socket");
        refuses(&path, "another process is listening there").await;
        connect(&path).await;
    }
    let file = folder.path().join("file");
    fs::write(&file, "kept").expect("a file");
    let link = folder.path().join("link");
    symlink(&path, &link).expect("a link");
    for other in [&file, &link] {
        refuses(other, "not a socket").await;
        assert!(fs::symlink_metadata(other).is_ok());
    }
    refuses(&folder.path().join("absent/s"), "make the folder").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_socket_paths_are_named() {
    let upstream = Upstream::ok();
    let long = format!("{{address: \"unix:/{}\"}}", "x".repeat(120));
    for (listen, named) in [
        ("{address: unix:run/s}", "from the root"),
        (long.as_str(), "too long"),
        ("{address: /run/s}", "unix:/run/s"),
        ("{address: unix:/run/s, mode: 1777}", "octal"),
        (
            "{address: 127.0.0.1:0, mode: \"0660\"}",
            "is for Unix sockets",
        ),
        (
            "{address: unix:/run/s, proxy_protocol: true}",
            "needs `trusted_proxies`",
        ),
    ] {
        let setup = Setup::from(Route::to(&upstream)).with("listen", &format!("[{listen}]"));
        let (code, output) = Gateway::refuses(setup).await;
        assert_eq!(code, Some(78), "{listen}: {output}");
        assert!(output.contains(named), "{listen}: {output}");
    }
    for (target, named) in [
        ("unix:/run/app.sock", "socket: /run/app.sock"),
        ("http://unix:/run/app.sock:/hook", "socket: /run/app.sock"),
        ("{url: \"http://app/\", socket: app.sock}", "from the root"),
    ] {
        let (code, output) = Gateway::refuses(Route::to_url(target)).await;
        assert_eq!(code, Some(78), "{target}: {output}");
        assert!(output.contains(named), "{target}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_on_a_unix_socket_is_trusted_by_name() {
    const CLIENT: &str = "203.0.113.9";
    let (upstream, (_folder, path)) = (Upstream::ok(), socket_path());
    let route = Route::to(&upstream).with("allow_from", "[203.0.113.0/24, 0.0.0.0/0]");
    let send = async |event: &str| {
        let request = Event::new(event).post().header("X-Forwarded-For", CLIENT);
        connect(&path).await.send(request).await
    };
    {
        // Without the name, the header is ignored and the sender unknown: not in any network.
        let mut gateway = Gateway::start(listening(route.clone(), &path, "")).await;
        send("evt_1").await.assert(403, "forbidden_address");
        eventually("both are warned of", async || {
            let log = gateway.output();
            log.contains("`allow_from` admits no request over unix:")
                && log.contains("X-Forwarded-For is ignored")
        })
        .await;
        assert!(gateway.stop().await.success());
    }
    let trusting = listening(route, &path, "").with("trusted_proxies", "[unix]");
    let gateway = Gateway::start(trusting).await;
    send("evt_2").await.assert(200, "delivered");
    upstream.last().assert_header("x-forwarded-for", CLIENT);
    gateway
        .wait_for_request_log(json!({"event_id": "evt_2", "peer": CLIENT}))
        .await;
    let response = connect(&path).await.send(Event::new("evt_3").post()).await;
    response.assert(403, "forbidden_address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_peers_share_one_place_unless_trusted() {
    let (upstream, (_folder, path)) = (Upstream::ok(), socket_path());
    let limited =
        listening(Route::to(&upstream), &path, "").with("limits", "{connections_per_address: 2}");
    let mut gateway = Gateway::start(limited.clone()).await;
    let mut held = Vec::new();
    for event in ["evt_1", "evt_2"] {
        let mut client = connect(&path).await;
        client
            .send(Event::new(event).post())
            .await
            .assert(200, "delivered");
        held.push(client);
    }
    let response = connect(&path)
        .await
        .try_send(Event::new("evt_3").post())
        .await;
    response.expect("a response").assert(503, "overloaded");
    gateway.kill().await;
    drop(held);
    let _gateway = Gateway::start(limited.with("trusted_proxies", "[unix]")).await;
    let mut held = Vec::new();
    for event in ["evt_4", "evt_5", "evt_6"] {
        let mut client = connect(&path).await;
        client
            .send(Event::new(event).post())
            .await
            .assert(200, "delivered");
        held.push(client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_keeps_its_unix_socket() {
    let (upstream, (_folder, path)) = (Upstream::ok(), socket_path());
    let socket = StdUnixListener::bind(&path).expect("a socket");
    let setup = listening(Route::to(&upstream), &path, "").with_socket(socket);
    let mut gateway = Gateway::start(setup).await;
    let response = connect(&path).await.send(Event::new("evt_1").post()).await;
    response.assert(200, "delivered");
    assert!(gateway.stop().await.success());
    assert!(path.exists(), "the file is systemd's");
    gateway.restart().await;
    let response = connect(&path).await.send(Event::new("evt_2").post()).await;
    response.assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_on_a_unix_socket_is_reached() {
    let (upstream, (_folder, path)) = (Upstream::ok(), socket_path());
    let door = Door::open(&path, &upstream);
    // As in two containers, the folder has another name for the upstream.
    let mounted = path.with_file_name("mounted.sock");
    fs::hard_link(&path, &mounted).expect("a link");
    let gateway = Gateway::start(Route::to_url(&to_socket(&mounted))).await;
    let mut client = gateway.connect().await;
    for event in ["evt_1", "evt_2", "evt_3"] {
        client
            .send(Event::new(event).post())
            .await
            .assert(200, "delivered");
    }
    let received = upstream.last();
    received.assert_header("host", "app.test");
    assert_eq!(received.target, "/hook");
    assert_eq!(door.connections(), 1, "the connection is kept");
    assert!(!gateway.output().contains("mismatch"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_failures_have_causes() {
    let (upstream, (folder, path)) = (Upstream::ok(), socket_path());
    let absent = folder.path().join("absent.sock");
    let full = folder.path().join("full.sock");
    let queue = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    queue
        .bind(&SockAddr::unix(&full).expect("a path"))
        .expect("a file");
    queue.listen(0).expect("a queue");
    let _waiting = UnixStream::connect(&full)
        .await
        .expect("a place in the queue");
    Door::open(&path, &upstream).close().await;
    let route = |name: &str, path: &Path| {
        Route::to_url(&to_socket(path))
            .named(name)
            .with("budget", "2s")
    };
    let routes = [
        route("refused", &path),
        route("absent", &absent),
        route("full", &full),
    ];
    let gateway = Gateway::start(Setup::new(routes)).await;
    for (name, path, cause, words) in [
        ("refused", &path, "refused", "does not listen"),
        ("absent", &absent, "unreachable", "does not exist"),
        ("full", &full, "connect_timeout", "in time"),
    ] {
        let event = format!("evt_{name}");
        let request = Event::new(&event).post().at(&format!("/webhooks/{name}"));
        assert!(gateway.send(request).await.status >= 500);
        let address = format!("unix:{}", path.display());
        let line = json!({"event_id": event, "cause": cause, "address": address});
        gateway.wait_for_request_log(line).await;
        let list = gateway.api(&format!("/deliveries?event_id={event}")).await;
        let id = list["deliveries"][0]["id"].as_str().expect("a delivery");
        let found = gateway.api(&format!("/deliveries/{id}")).await;
        let attempt = &found["delivery"]["attempts"][0];
        assert_eq!(attempt["address"], address, "{attempt}");
        let error = attempt["error"].as_str().expect("an error");
        assert!(error.contains(words), "{error}");
    }
    // The application comes up, and the next attempt finds it.
    fs::remove_file(&path).expect("a file");
    let _door = Door::open(&path, &upstream);
    let request = Event::new("evt_later").post().at("/webhooks/refused");
    gateway.send(request).await.assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_address_of_a_name_is_listened_on() {
    let upstream = Upstream::ok();
    let named = Setup::from(Route::to(&upstream)).with("listen", r#"[{address: "localhost:0"}]"#);
    let gateway = Gateway::start(named).await;
    let response = gateway.send(Event::new("evt_1").post()).await;
    response.assert(200, "delivered");
    let nowhere = Setup::from(Route::to(&upstream))
        .with("listen", r#"[{address: "no-such-host.invalid:0"}]"#);
    let (code, output) = Gateway::refuses(nowhere).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(
        output.contains("cannot listen on no-such-host.invalid:0"),
        "{output}"
    );
    // The name of a port in use is in the message, with the address.
    let taken = NeverAccepts::new().await;
    let port = taken.address().port();
    let twice = Setup::from(Route::to(&upstream))
        .with("listen", &format!(r#"[{{address: "localhost:{port}"}}]"#));
    let (code, output) = Gateway::refuses(twice).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains(&format!("127.0.0.1:{port}")), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_header_is_read_over_unix() {
    /// Version 2, TCP over IPv4: from 203.0.113.9:80 to 192.0.2.1:80.
    const HEADER: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\xc0\0\x02\x01\0\x50\0\x50";
    let (upstream, (_folder, path)) = (Upstream::ok(), socket_path());
    let route = Route::to(&upstream).with("allow_from", "[203.0.113.0/24]");
    let setup = listening(route, &path, ", proxy_protocol: true");
    let (code, output) =
        Gateway::refuses(setup.clone().with("trusted_proxies", "[10.0.0.1]")).await;
    assert_eq!(code, Some(78), "{output}");
    assert!(
        output.contains("no peer of this Unix socket is trusted"),
        "{output}"
    );
    let gateway = Gateway::start(setup.with("trusted_proxies", "[unix]")).await;
    let mut client = connect(&path).await;
    client.write(HEADER).await;
    let response = client.send(Event::new("evt_1").post()).await;
    response.assert(200, "delivered");
    gateway
        .wait_for_request_log(json!({"event_id": "evt_1", "peer": "203.0.113.9"}))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_listener_comes_and_goes_at_reloads() {
    let (upstream, (folder, path)) = (Upstream::ok(), socket_path());
    let setup = |keys: &str| listening(Route::to(&upstream), &path, keys);
    let mode = || fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
    let without = Setup::from(Route::to(&upstream)).stopping_at_once();
    let gateway = Gateway::start(without.clone()).await;
    gateway.reload(setup("")).await;
    assert_eq!(mode(), 0o660);
    let mut client = connect(&path).await;
    gateway.reload(setup(r#", mode: "0600""#)).await;
    assert_eq!(mode(), 0o600);
    // The socket is the same, and its connections go on.
    let response = client.send(Event::new("evt_1").post()).await;
    response.assert(200, "delivered");
    // A path that is taken refuses the reload, and leaves nothing behind.
    let taken = folder.path().join("taken.sock");
    fs::write(&taken, "a file").expect("a file");
    let to_taken = listening(Route::to(&upstream), &taken, "");
    let refused = gateway.try_reload(to_taken).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.text().contains("taken.sock"), "{}", refused.text());
    assert_eq!(fs::read(&taken).expect("the file"), b"a file");
    assert!(path.exists());
    gateway.reload(without).await;
    assert!(!path.exists(), "the file goes with the listener");
}

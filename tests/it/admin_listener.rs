//! The admin listener under clients that mean it harm: it goes on answering health checks and
//! operators.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::programs::{is_root, program, tool};
use crate::harness::wait::eventually;
use crate::harness::*;

const TOKEN: &str = "admin_it_token_41d7";

/// More connections than the listener has places.
const CONNECTIONS: usize = 300;

fn guarded() -> Setup {
    Setup::from(Route::to(&Upstream::ok()))
        .with("admin", r#"{address: "127.0.0.1:0", token: {env: ADMIN}}"#)
        .env("ADMIN", TOKEN)
}

fn get(path: &str) -> Request {
    Request::new("GET", path).set("Host", "localhost")
}

fn with_token(request: Request, token: &str) -> Request {
    request.header("Authorization", &format!("Bearer {token}"))
}

fn login(token: &str) -> Request {
    Request::post(format!("token={token}").as_bytes())
        .at("/ui/login")
        .set("Host", "localhost")
        .set("Content-Type", "application/x-www-form-urlencoded")
}

/// Sends one request on a connection of its own.
async fn send(to: SocketAddr, request: Request) -> Response {
    Client::connect(to).await.send(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_block_nobody() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let before = gateway.open_sockets();
    for path in ["/metrics", "/openapi.json"] {
        let requests = get(path).bytes().repeat(200);
        let mut deaf = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = Client::connect_narrow(gateway.admin_address()).await;
            client.write_some(&requests).await;
            deaf.push(client);
        }
        for path in ["/healthz", "/readyz", "/webhooks", "/metrics"] {
            assert_eq!(gateway.admin_get(path).await.status, 200, "{path}");
        }
        gateway
            .send(Event::new(path))
            .await
            .assert(200, "delivered");
        if path == "/openapi.json" {
            eventually("the connections are closed", async || {
                gateway.open_sockets() < before + CONNECTIONS / 10
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_does_not_displace_others() {
    let gateway = Gateway::start(guarded()).await;
    let admin = gateway.admin_address();
    let mut other = Client::connect_from("127.0.0.2".parse().unwrap(), admin).await;
    let mut operator = Client::connect(admin).await;
    let status = || with_token(get("/status"), TOKEN);
    assert_eq!(operator.send(status()).await.status, 200);
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(Client::connect(admin).await);
    }
    assert_eq!(send(admin, get("/healthz")).await.status, 200);
    assert_eq!(other.send(get("/healthz")).await.status, 200);
    assert_eq!(operator.send(status()).await.status, 200);
    silent[0].wait_for_close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_rendered_at_a_bounded_rate() {
    let gateway = Gateway::start(guarded()).await;
    let mut client = Client::connect(gateway.admin_address()).await;
    let start = Instant::now();
    // Ten follow each other at once; each further one waits for its second.
    for _ in 0..12 {
        assert_eq!(client.send(get("/metrics")).await.status, 200);
    }
    assert!(
        start.elapsed().as_secs_f64() >= 1.0,
        "{:?}",
        start.elapsed()
    );
    let together = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        clients.spawn(send(gateway.admin_address(), get("/metrics")));
    }
    for response in clients.join_all().await {
        assert_eq!(response.status, 200);
    }
    assert!(
        together.elapsed().as_secs_f64() < 10.0,
        "they share a rendering: {:?}",
        together.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_tokens_are_slowed_and_right_ones_not() {
    let gateway = Gateway::start(guarded()).await;
    let admin = gateway.admin_address();
    let start = Instant::now();
    let mut guesses = JoinSet::new();
    for number in 0..40 {
        let guess = format!("wrong_{number}");
        guesses.spawn(send(
            admin,
            match number % 2 {
                0 => login(&guess),
                _ => with_token(get("/status"), &guess),
            },
        ));
    }
    let status = with_token(get("/status"), TOKEN);
    assert_eq!(send(admin, status).await.status, 200);
    assert_eq!(send(admin, login(TOKEN)).await.status, 303);
    assert!(!guesses.is_empty() && guesses.try_join_next().is_none());
    for response in guesses.join_all().await {
        assert_eq!(response.status, 401);
    }
    assert!(
        start.elapsed().as_secs_f64() >= 1.0,
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_logins_write_a_bounded_number_of_lines() {
    let gateway = Gateway::start(guarded()).await;
    let start = Instant::now();
    let mut guesses = JoinSet::new();
    for number in 0..40 {
        guesses.spawn(send(
            gateway.admin_address(),
            login(&format!("wrong_{number}")),
        ));
    }
    guesses.join_all().await;
    let failed = json!({"operation": "log_in", "outcome": "unauthorized"});
    let lines = gateway.lines();
    let lines = lines.iter().filter(|line| {
        failed
            .as_object()
            .unwrap()
            .iter()
            .all(|(name, value)| line.get(name) == Some(value))
    });
    let (count, suppressed) = lines.fold((0, 0), |(count, suppressed), line| {
        (
            count + 1,
            suppressed + line["suppressed"].as_u64().unwrap_or(0),
        )
    });
    assert!(
        (1..=start.elapsed().as_secs() + 2).contains(&count) && count + suppressed <= 40,
        "{count} lines, {suppressed} suppressed"
    );
}

/// Sends one request as another user than the gateway's, and returns the whole response.
fn send_as_other_user(setpriv: &Path, to: SocketAddr, request: &Request) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/{}/{} && cat >&3 && timeout 5 cat <&3",
        to.ip(),
        to.port()
    );
    let mut child = Command::new(setpriv)
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["bash", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("setpriv starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(&request.bytes()).expect("bash reads");
    drop(input);
    let output = child.wait_with_output().expect("bash ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_other_users_get_403() {
    let setpriv = program("HOOKSTILE_SETPRIV", "setpriv").filter(|_| is_root());
    let what = "root, with setpriv,";
    let Some(setpriv) = tool(what, setpriv, "other users on the admin listener") else {
        return;
    };
    let open = Gateway::start(Route::to(&Upstream::ok())).await;
    let ask = |gateway: &Gateway, path: &str| {
        let request = get(path).header("Connection", "close");
        send_as_other_user(&setpriv, gateway.admin_address(), &request)
    };
    for path in ["/", "/webhooks", "/openapi.json", "/graphql"] {
        let response = ask(&open, path);
        assert!(response.starts_with("HTTP/1.1 403 "), "{path}: {response}");
        assert!(response.contains("other_user"), "{path}: {response}");
        assert!(response.contains("admin.token"), "{path}: {response}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let response = ask(&open, path);
        assert!(response.starts_with("HTTP/1.1 200 "), "{path}: {response}");
    }
    assert_eq!(open.admin_get("/webhooks").await.status, 200, "root");

    let guarded = Gateway::start(guarded()).await;
    let response = ask(&guarded, "/webhooks");
    assert!(response.starts_with("HTTP/1.1 401 "), "{response}");
}

//! The admin API against its own documents: schemathesis makes requests from them, right ones and wrong ones, and judges
//! the answers. What it is told is in `tests/schemathesis/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::programs::{program, tool};
use crate::harness::*;

const TOKEN: &str = "admin_it_token_41d7";

fn schemathesis() -> Option<PathBuf> {
    let beside =
        program("HOOKSTILE_PYTHON", "python3").map(|python| python.with_file_name("schemathesis"));
    tool(
        "schemathesis beside HOOKSTILE_PYTHON",
        beside.filter(|path| path.is_file()),
        "the API against its documents",
    )
}

async fn ask(gateway: &Gateway, request: Request) -> Value {
    let request = request
        .set("Host", "localhost")
        .header("Authorization", &format!("Bearer {TOKEN}"));
    let answer = Client::connect(gateway.admin()).await.send(request).await;
    assert!(answer.status < 300, "{}", answer.text());
    serde_json::from_slice(&answer.body)
        .unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

/// Takes most, refuses one event for good, and has no time for another.
fn upstream() -> Upstream {
    Upstream::deciding(|request, _| match request.header("Hookstile-Event-Id") {
        Some("evt_dead") => Reply::status(410),
        Some("evt_late" | "evt_failed") => Reply::status(503),
        _ => Reply::ok(),
    })
}

/// A gateway with a delivery in each state, a request that was turned away, and a webhook that was made over the API,
/// of which it also answers the ID.
async fn lived_in(upstream: &Upstream) -> (Gateway, String) {
    let proxied = Route::to(upstream).named("proxied");
    // Its event type stands in a header.
    let headed = Route::to(upstream)
        .named("headed")
        .with("provider", "github");
    let queued = Route::to(upstream)
        .named("queued")
        .with("delivery", "queue")
        .with("retain", "{payloads: all}");
    let queued = queued.with(
        "retry",
        "{initial: 20ms, factor: 10, max_interval: 1h, horizon: 2h}",
    );
    // Nothing that is made up may be sent anywhere else.
    let admin = format!(
        r#"{{address: "127.0.0.1:0", token: {{env: ADMIN}}, allowed_upstreams: ["{}"]}}"#,
        upstream.url()
    );
    let setup = Setup::new([proxied, headed, queued])
        .with("admin", &admin)
        .env("ADMIN", TOKEN)
        .stopping_at_once();
    let gateway = Gateway::start(setup).await;
    let send = async |id: &str, route: &str| {
        gateway
            .send(Event::new(id).post().at(&format!("/webhooks/{route}")))
            .await;
    };
    send("evt_good", "proxied").await;
    send("evt_failed", "proxied").await;
    for id in ["evt_dead", "evt_late", "evt_kept"] {
        send(id, "queued").await;
    }
    gateway
        .send(Event::new("evt_forged").forged().at("/webhooks/proxied"))
        .await;
    for (state, event) in [
        ("success", "good"),
        ("failed", "failed"),
        ("dead", "dead"),
        ("pending", "late"),
    ] {
        let path = format!("/deliveries?status={state}&event_id=evt_{event}");
        eventually(format!("evt_{event} is recorded as {state}"), async || {
            ask(&gateway, Request::new("GET", &path)).await["total"] == 1
        })
        .await;
    }
    let made = json!({"url": upstream.url()}).to_string();
    let made = ask(&gateway, Request::post(made.as_bytes()).at("/webhooks")).await;
    (
        gateway,
        made["webhook"]["id"].as_str().expect("an ID").to_owned(),
    )
}

/// The number it begins with is the same each time, unless `HOOKSTILE_SEED` says otherwise.
async fn finds_nothing(configuration: &str, document: &str) {
    let Some(schemathesis) = schemathesis() else {
        return;
    };
    let upstream = upstream();
    let (gateway, webhook) = lived_in(&upstream).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
    let mut text = std::fs::read_to_string(folder.join(configuration)).expect("a configuration");
    let url = upstream.url();
    for (name, value) in [
        ("HOOKSTILE_ADMIN_TOKEN", TOKEN),
        ("HOOKSTILE_UPSTREAM", &url),
        ("HOOKSTILE_WEBHOOK", &webhook),
    ] {
        text = text.replace(name, value);
    }
    let configuration = gateway.directory().join(configuration);
    std::fs::write(&configuration, text).expect("a writable folder");
    let seed = std::env::var("HOOKSTILE_SEED").unwrap_or_else(|_| "1".into());
    let mut command = Command::new(schemathesis);
    command
        .current_dir(folder)
        .arg("--config-file")
        .arg(configuration);
    command.args(["run", "--no-color", "--seed", &seed]);
    command.arg(format!("http://{}{document}", gateway.admin()));
    command
        .env("HOOKSTILE_UPSTREAM", url)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("HYPOTHESIS_STORAGE_DIRECTORY", gateway.directory());
    let run = tokio::task::spawn_blocking(move || command.output().expect("schemathesis runs"));
    let output = run.await.expect("no panic");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!gateway.is_gone(), "the gateway lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_api_is_what_its_document_says() {
    finds_nothing("rest.toml", "/openapi.json").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_graphql_api_is_what_its_schema_says() {
    finds_nothing("graphql.toml", "/graphql").await;
}

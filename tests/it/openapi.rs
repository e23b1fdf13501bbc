//! The admin API against its own documents: schemathesis generates valid and invalid requests from
//! them and checks the responses. Its configuration is in `tests/schemathesis/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::programs::{program, tool};
use crate::harness::*;

const TOKEN: &str = "admin_it_token_41d7";

fn schemathesis() -> Option<PathBuf> {
    let script =
        program("HOOKSTILE_PYTHON", "python3").map(|python| python.with_file_name("schemathesis"));
    tool(
        "schemathesis beside HOOKSTILE_PYTHON",
        script.filter(|path| path.is_file()),
        "the API against its documents",
    )
}

async fn send_to_admin(gateway: &Gateway, request: Request) -> Value {
    let request = request
        .set("Host", "localhost")
        .header("Authorization", &format!("Bearer {TOKEN}"));
    let response = Client::connect(gateway.admin_address())
        .await
        .send(request)
        .await;
    assert!(response.status < 300, "{}", response.text());
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

/// An upstream that accepts most events, rejects one for good, and is unavailable for another.
fn upstream() -> Upstream {
    Upstream::deciding(|request, _| match request.header("Hookstile-Event-Id") {
        Some("evt_dead") => Reply::status(422),
        Some("evt_late" | "evt_failed" | "evt_waiting") => Reply::status(503),
        _ => Reply::ok(),
    })
}

/// Starts a gateway that has a delivery in each state, a captured request, a removed route with
/// events, and a webhook created over the API; returns it with the IDs of the webhook and the
/// captured request.
async fn gateway_with_data(upstream: &Upstream) -> (Gateway, [String; 2]) {
    let proxied = Route::to(upstream).named("proxied").with("capture", "{}");
    // The route reads its event type from a header.
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
    // No generated URL may point anywhere else.
    let admin = format!(
        r#"{{address: "127.0.0.1:0", token: {{env: ADMIN}}, allowed_upstreams: ["{}"]}}"#,
        upstream.url()
    );
    let removed = queued.clone().named("removed");
    let routes = [proxied, headed, queued];
    let setup = |routes| {
        Setup::new(routes)
            .with("admin", &admin)
            .env("ADMIN", TOKEN)
            .stopping_at_once()
    };
    let mut all = routes.to_vec();
    all.push(removed);
    let gateway = Gateway::start(setup(all)).await;
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
    for id in ["evt_waiting", "evt_done"] {
        send(id, "removed").await;
    }
    gateway
        .send(Event::new("evt_forged").forged().at("/webhooks/proxied"))
        .await;
    for (state, event) in [
        ("success", "good"),
        ("failed", "failed"),
        ("dead", "dead"),
        ("pending", "late"),
        ("pending", "waiting"),
        ("success", "done"),
    ] {
        let path = format!("/deliveries?status={state}&event_id=evt_{event}");
        eventually(format!("evt_{event} is recorded as {state}"), async || {
            send_to_admin(&gateway, Request::new("GET", &path)).await["total"] == 1
        })
        .await;
    }
    gateway.rewrite(setup(routes.to_vec()));
    send_to_admin(&gateway, Request::post(b"{}").at("/reload")).await;
    let made = json!({"url": upstream.url()}).to_string();
    let made = send_to_admin(&gateway, Request::post(made.as_bytes()).at("/webhooks")).await;
    let captured = send_to_admin(&gateway, Request::new("GET", "/captures")).await;
    let ids = [&made["webhook"]["id"], &captured["captures"][0]["id"]];
    let ids = ids.map(|id| id.as_str().expect("an ID").to_owned());
    (gateway, ids)
}

/// Runs schemathesis and asserts that it finds nothing. The seed is fixed unless `HOOKSTILE_SEED`
/// sets another.
async fn assert_schemathesis_passes(configuration: &str, document: &str) {
    let Some(schemathesis) = schemathesis() else {
        return;
    };
    let upstream = upstream();
    let (gateway, [webhook, capture]) = gateway_with_data(&upstream).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
    let mut text = std::fs::read_to_string(folder.join(configuration)).expect("a configuration");
    let url = upstream.url();
    for (name, value) in [
        ("HOOKSTILE_ADMIN_TOKEN", TOKEN),
        ("HOOKSTILE_UPSTREAM", &url),
        ("HOOKSTILE_WEBHOOK", &webhook),
        ("HOOKSTILE_CAPTURE", &capture),
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
    command.arg(format!("http://{}{document}", gateway.admin_address()));
    command
        .env("HOOKSTILE_UPSTREAM", url)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("HYPOTHESIS_STORAGE_DIRECTORY", gateway.directory());
    let run = tokio::task::spawn_blocking(move || command.output().expect("schemathesis runs"));
    let output = run.await.expect("no panic");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{report}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!gateway.is_gone(), "the gateway is still running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rest_api_matches_its_document() {
    assert_schemathesis_passes("rest.toml", "/openapi.json").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphql_api_matches_its_schema() {
    assert_schemathesis_passes("graphql.toml", "/graphql").await;
}

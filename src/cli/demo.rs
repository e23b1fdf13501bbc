//! `hookstile demo`: runs a sender, the gateway and a receiver in one process, and shows the
//! outcome of each event.
//!
//! All traffic uses real sockets on free ports of the loopback interface. Only the sender and the
//! receiver are simulated.

mod receiver;
mod sender;
mod table;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::FAILED;
use crate::app::{self, App, Sockets};
use crate::config;
use crate::providers::{orbvpn, vpn_enterprise};
use crate::secret::Secret;
use crate::signature::{Scheme, Signed, presets};
use receiver::{Receiver, ReceiverCounts};
use sender::{GatewayResponse, Sender};
use table::Table;

/// Run a sender, the gateway and a receiver in one process, and show the outcome of each event
///
/// Sends every known event type, then four requests that the gateway must reject or time out. Needs
/// no configuration and no running gateway.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile demo
  hookstile demo --json | jq -r '[.event_type, .outcome] | @tsv'")]
pub struct Args {
    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
}

const SECRET: &str = "whsec_demo_current";
const HALF_AN_HOUR: SignedDuration = SignedDuration::from_mins(30);

/// One request of the demo, with the expected result.
struct DemoStep {
    label: &'static str,
    event_type: &'static str,
    path: &'static str,
    body: Vec<u8>,
    signature: Signed,
    status: u16,
    outcome: &'static str,
    /// The expectation that the request reaches the receiver.
    arrives: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hookstile: cannot start: {error}");
            return ExitCode::from(FAILED);
        }
    };
    match runtime.block_on(run_steps(args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(problem) => {
            eprintln!("hookstile: {problem}");
            ExitCode::from(FAILED)
        }
    }
}

/// Runs all steps and returns whether each had the expected result.
async fn run_steps(args: &Args) -> Result<bool, String> {
    let receiver = Receiver::start(SECRET)
        .await
        .map_err(|error| format!("cannot start the receiver: {error}"))?;
    let store = tempfile::tempdir()
        .map_err(|error| format!("cannot create a folder for the store: {error}"))?;
    let app = start_gateway(receiver.address, store.path()).await?;
    let address = app.data[0];
    eprintln!(
        "gateway   http://{address}   metrics http://{}/metrics",
        app.admin
    );
    eprintln!(
        "receiver  http://{}   behind the gateway; verifies every signature again",
        receiver.address
    );

    let steps = demo_steps()?;
    let sender = Sender::new(address);
    let mut table = Table::new(args.json, steps.len());
    for step in steps {
        let before = receiver.counts();
        let response = sender.post(step.path, &step.signature, &step.body).await?;
        let counts = receiver.counts().since(&before);
        let as_expected = matches_expectation(&step, &response, counts);
        table.row(&step, &response, counts, as_expected);
    }
    let all_as_expected = table.end();
    app.stop(Duration::ZERO).await;
    Ok(all_as_expected)
}

fn matches_expectation(
    step: &DemoStep,
    response: &GatewayResponse,
    received: ReceiverCounts,
) -> bool {
    let expected = usize::from(step.arrives);
    response.status == step.status
        && response.outcome == step.outcome
        && received.requests == expected
        && received.verified == expected
}

async fn start_gateway(receiver: SocketAddr, store: &Path) -> Result<App, String> {
    let store = store.display();
    let yaml = format!(
        r#"
store: {{path: "{store}"}}
listen: [{{address: "127.0.0.1:0"}}]
admin: {{address: "127.0.0.1:0"}}
defaults: {{secrets: [{{env: DEMO_SECRET, name: current}}]}}
routes:
  - path: /webhooks/vpn-enterprise
    provider: vpn-enterprise
    upstream: http://{receiver}/vpn-enterprise
  - path: /webhooks/orbvpn
    provider: orbvpn
    upstream: http://{receiver}/orbvpn
  - path: /webhooks/stripe
    provider: stripe
    upstream: http://{receiver}/stripe
  - path: /webhooks/slow
    provider: vpn-enterprise
    budget: 1500ms
    upstream: http://{receiver}/slow
"#
    );
    let env = |name: &str| (name == "DEMO_SECRET").then(|| SECRET.to_owned());
    let loaded =
        config::load_text("demo.yaml", yaml, &env).map_err(|report| report.to_text(false))?;
    App::start(loaded.config, Sockets::default())
        .await
        .map_err(|error: app::Error| error.to_string())
}

/// Returns the steps: every event type of both providers, then the requests that must fail.
fn demo_steps() -> Result<Vec<DemoStep>, String> {
    let secret = Secret::new(SECRET).map_err(|error| error.to_string())?;
    let mut steps = genuine_steps(&secret)?;
    let failing = failing_steps(&secret, &steps)?;
    steps.extend(failing);
    Ok(steps)
}

/// Returns a step for every event type of both providers.
fn genuine_steps(secret: &Secret) -> Result<Vec<DemoStep>, String> {
    let mut steps = Vec::new();
    for &event_type in vpn_enterprise::EVENT_TYPES {
        let body = event_body(steps.len() + 1, event_type);
        let signature = sign(&presets::vpn_enterprise(), secret, &body, Timestamp::now())?;
        steps.push(DemoStep {
            label: "genuine",
            event_type,
            path: "/webhooks/vpn-enterprise",
            body: body.into(),
            signature,
            status: 200,
            outcome: "delivered",
            arrives: true,
        });
    }
    for &event_type in orbvpn::EVENT_TYPES {
        let body = presets::orbvpn()
            .sign_in_body(secret, &event_body(steps.len() + 1, event_type))
            .map_err(|error| error.to_string())?;
        steps.push(DemoStep {
            label: "genuine",
            event_type,
            path: "/webhooks/orbvpn",
            body: body.into(),
            signature: Signed::default(),
            status: 200,
            outcome: "delivered",
            arrives: true,
        });
    }
    Ok(steps)
}

/// Returns the requests that must fail. One of them replays the first genuine step.
fn failing_steps(secret: &Secret, genuine: &[DemoStep]) -> Result<Vec<DemoStep>, String> {
    let first = genuine.first().ok_or("there is no event to replay")?;
    let number = genuine.len();
    let (now, vpn_enterprise) = (Timestamp::now(), presets::vpn_enterprise());
    let tampered = event_body(number + 1, "user.created");
    let stale = event_body(number + 2, "charge.succeeded");
    let slow = event_body(number + 3, "user.created");
    Ok(vec![
        DemoStep {
            label: "tampered",
            event_type: "user.created",
            path: "/webhooks/vpn-enterprise",
            signature: sign(&vpn_enterprise, secret, &tampered, now)?,
            body: format!("{tampered} ").into(),
            status: 401,
            outcome: "invalid_signature",
            arrives: false,
        },
        DemoStep {
            label: "replayed",
            event_type: "user.created",
            path: "/webhooks/vpn-enterprise",
            signature: first.signature.clone(),
            body: first.body.clone(),
            status: 409,
            outcome: "duplicate",
            arrives: false,
        },
        DemoStep {
            label: "stale",
            event_type: "charge.succeeded",
            path: "/webhooks/stripe",
            signature: sign(&presets::stripe(), secret, &stale, now - HALF_AN_HOUR)?,
            body: stale.into(),
            status: 401,
            outcome: "invalid_signature",
            arrives: false,
        },
        DemoStep {
            label: "over budget",
            event_type: "user.created",
            path: "/webhooks/slow",
            signature: sign(&vpn_enterprise, secret, &slow, now)?,
            body: slow.into(),
            status: 504,
            outcome: "budget_exceeded",
            arrives: true,
        },
    ])
}

fn event_body(number: usize, event_type: &str) -> String {
    json!({
        "id": format!("evt_demo_{number:03}"),
        "type": event_type,
        "timestamp": "2026-01-15T10:30:00Z",
        "data": { "user_id": "usr_456", "note": "generated by hookstile demo" },
    })
    .to_string()
}

fn sign(scheme: &Scheme, secret: &Secret, body: &str, at: Timestamp) -> Result<Signed, String> {
    scheme
        .sign(secret, body.as_bytes(), at, None)
        .map_err(|error| error.to_string())
}

//! `hookstile demo`: runs a sender, the gateway and its applications in one process. It goes on until
//! it is interrupted (`live`), or sends each event once and shows its outcome.
//!
//! All traffic uses real sockets on the loopback interface. Only the sender and the applications are
//! simulated.

mod live;
mod receiver;
mod sender;
mod table;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::admin::CommandError;
use super::{FAILED, terminal};
use crate::app::{self, App, Sockets};
use crate::config;
use crate::providers::{orbvpn, vpn_enterprise};
use crate::secret::Secret;
use crate::signature::{Scheme, Signed, presets};
use receiver::{Receiver, ReceiverCounts};
use sender::{GatewayResponse, Sender};
use table::Table;

/// Show the gateway at work, with its dashboard, until Ctrl-C
///
/// Runs the gateway with a sender and two applications, one of which fails and recovers. Needs no
/// configuration and keeps nothing. With --once, sends every known event type and four requests
/// that the gateway must reject or time out, shows the outcome of each, and ends; exit status 1 if
/// any was not as expected.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile demo
  hookstile demo --once
  hookstile demo --once --json | jq -r '[.event_type, .outcome] | @tsv'")]
pub struct Args {
    /// Send each event once, show its outcome and end
    #[arg(long)]
    once: bool,
    /// Address of the dashboard [default: 127.0.0.1:9180, or any free port if that is in use]
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["once", "json"])]
    admin: Option<SocketAddr>,
    /// With --once, print one JSON object per line instead of a table; implies --once
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
            return CommandError::Failed(format!("cannot start: {error}")).exit_with(args.json);
        }
    };
    let result = if args.once || args.json {
        runtime.block_on(run_steps(args.json))
    } else {
        runtime.block_on(live::run(args.admin)).map(|()| true)
    };
    // Do not wait for connections that are still open.
    runtime.shutdown_background();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => error.exit_with(args.json),
    }
}

/// Runs all steps and returns whether each had the expected result.
async fn run_steps(json: bool) -> Result<bool, CommandError> {
    let receiver = Receiver::start(SECRET)
        .await
        .map_err(|error| CommandError::Failed(format!("cannot start the receiver: {error}")))?;
    let store = store_folder()?;
    let (app, address) = start_gateway(routes_for_steps(receiver.address, store.path())).await?;
    terminal::print_line(&format!(
        "gateway   http://{address}   metrics http://{}/metrics",
        app.admin
    ));
    terminal::print_line(&format!(
        "receiver  http://{}   behind the gateway; verifies every signature again",
        receiver.address
    ));

    let steps = demo_steps().map_err(CommandError::Failed)?;
    let sender = Sender::new(address);
    let mut table = Table::new(json, steps.len())?;
    for step in steps {
        let before = receiver.counts();
        let response = sender
            .post(step.path, &step.signature, &step.body)
            .await
            .map_err(CommandError::Failed)?;
        let counts = receiver.counts().since(&before);
        let as_expected = matches_expectation(&step, &response, counts);
        table.row(&step, &response, counts, as_expected)?;
    }
    let all_as_expected = table.end()?;
    app.stop(Duration::ZERO).await;
    Ok(all_as_expected)
}

/// Creates the folder of the store. It is deleted when it is dropped.
fn store_folder() -> Result<tempfile::TempDir, CommandError> {
    tempfile::tempdir().map_err(|error| {
        CommandError::Failed(format!("cannot create a folder for the store: {error}"))
    })
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

fn routes_for_steps(receiver: SocketAddr, store: &Path) -> String {
    let store = store.display();
    format!(
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
    )
}

/// Starts a gateway and returns it with the address of its first listener.
async fn start_gateway(yaml: String) -> Result<(App, SocketAddr), CommandError> {
    let env = |name: &str| (name == "DEMO_SECRET").then(|| SECRET.to_owned());
    let loaded = config::load_text("demo.yaml", yaml, &env)
        .map_err(|report| CommandError::Configuration(Box::new(report)))?;
    let app = App::start(loaded.config, Sockets::default())
        .await
        .map_err(|error: app::Error| CommandError::Failed(error.to_string()))?;
    let address = app.data.first().and_then(app::SocketAddress::inet);
    let address = address.ok_or_else(|| CommandError::Failed("no listener has a port".into()))?;
    Ok((app, address))
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

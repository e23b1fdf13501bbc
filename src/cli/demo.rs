//! `hookstile demo`: a receiver, the gateway and a sender in one process, and what becomes of each event.
//!
//! Everything goes over real sockets on free ports of the loopback interface; only the receiver and the sender are
//! made up.

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
use receiver::{Receiver, Seen};
use sender::{Answer, Sender};
use table::Table;

/// Show what becomes of events: a receiver, the gateway and a sender in one process
///
/// Sends every known event type, and four events that must not pass. Needs no configuration and no service.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile demo
  hookstile demo --json | jq -r '[.event_type, .outcome] | @tsv'")]
pub struct Args {
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
}

const SECRET: &str = "whsec_demo_current";
const HALF_AN_HOUR: SignedDuration = SignedDuration::from_mins(30);

/// One thing that is sent, and what should become of it.
struct Act {
    what: &'static str,
    kind: &'static str,
    path: &'static str,
    body: Vec<u8>,
    signature: Signed,
    status: u16,
    outcome: &'static str,
    /// Whether the receiver should see it.
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
    match runtime.block_on(play(args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(problem) => {
            eprintln!("hookstile: {problem}");
            ExitCode::from(FAILED)
        }
    }
}

/// Plays all acts. Answers whether each went as it should.
async fn play(args: &Args) -> Result<bool, String> {
    let receiver = Receiver::start(SECRET)
        .await
        .map_err(|error| format!("the receiver cannot start: {error}"))?;
    let store = tempfile::tempdir()
        .map_err(|error| format!("cannot make a folder for the store: {error}"))?;
    let app = gateway(receiver.address, store.path()).await?;
    let address = app.data[0];
    eprintln!(
        "gateway   http://{address}   metrics http://{}/metrics",
        app.admin
    );
    eprintln!(
        "receiver  http://{}   behind the gateway; it checks every signature again",
        receiver.address
    );

    let acts = acts()?;
    let sender = Sender::to(address);
    let mut table = Table::new(args.json, acts.len());
    for act in acts {
        let seen_before = receiver.seen();
        let answer = sender.post(act.path, &act.signature, &act.body).await?;
        let seen = receiver.seen().since(&seen_before);
        table.row(&act, &answer, seen, as_it_should(&act, &answer, seen));
    }
    let all_went_well = table.end();
    app.stop(Duration::ZERO).await;
    Ok(all_went_well)
}

fn as_it_should(act: &Act, answer: &Answer, seen: Seen) -> bool {
    let arrived = seen.requests == 1 && seen.verified == 1;
    let kept_out = seen.requests == 0;
    answer.status == act.status
        && answer.outcome == act.outcome
        && if act.arrives { arrived } else { kept_out }
}

async fn gateway(receiver: SocketAddr, store: &Path) -> Result<App, String> {
    let store = store.display();
    let yaml = format!(
        r#"
store: {{path: "{store}"}}
listen: [{{address: "127.0.0.1:0"}}]
admin: {{address: "127.0.0.1:0"}}
defaults: {{secrets: [{{env: DEMO_SECRET, name: current}}]}}
routes:
  - {{path: /webhooks/vpn-enterprise, provider: vpn-enterprise, upstream: "http://{receiver}/vpn-enterprise"}}
  - {{path: /webhooks/orbvpn, provider: orbvpn, upstream: "http://{receiver}/orbvpn"}}
  - {{path: /webhooks/stripe, provider: stripe, upstream: "http://{receiver}/stripe"}}
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

/// Every event type of both providers, then what must not pass.
fn acts() -> Result<Vec<Act>, String> {
    let current = Secret::new(SECRET).map_err(|error| error.to_string())?;
    let mut acts = Vec::new();
    let mut number = 0;
    let mut event = |kind: &str| {
        number += 1;
        let event = json!({
            "id": format!("evt_demo_{number:03}"),
            "type": kind,
            "timestamp": "2026-01-15T10:30:00Z",
            "data": { "user_id": "usr_456", "note": "made up by hookstile demo" },
        });
        event.to_string()
    };
    let now = Timestamp::now();
    let sign = |scheme: &Scheme, secret, body: &str, at| {
        scheme
            .sign(secret, body.as_bytes(), at, None)
            .map_err(|error| error.to_string())
    };
    let (what, status, outcome) = ("genuine", 200, "delivered");
    let (path, scheme) = ("/webhooks/vpn-enterprise", presets::vpn_enterprise());
    for &kind in vpn_enterprise::EVENT_TYPES {
        let body = event(kind);
        let signature = sign(&scheme, &current, &body, now)?;
        acts.push(Act {
            what,
            kind,
            path,
            body: body.into(),
            signature,
            status,
            outcome,
            arrives: true,
        });
    }
    for &kind in orbvpn::EVENT_TYPES {
        let body = presets::orbvpn()
            .sign_in_body(&current, &event(kind))
            .map_err(|error| error.to_string())?
            .into();
        let path = "/webhooks/orbvpn";
        acts.push(Act {
            what,
            kind,
            path,
            body,
            signature: Signed::default(),
            status,
            outcome,
            arrives: true,
        });
    }

    let kind = "user.created";
    let body = event(kind);
    let signature = sign(&scheme, &current, &body, now)?;
    let body = format!("{body} ").into();
    let (status, outcome) = (401, "invalid_signature");
    acts.push(Act {
        what: "tampered",
        kind,
        path,
        body,
        signature,
        status,
        outcome,
        arrives: false,
    });

    let (body, signature) = (acts[0].body.clone(), acts[0].signature.clone());
    let (status, outcome) = (409, "duplicate");
    acts.push(Act {
        what: "replayed",
        kind,
        path,
        body,
        signature,
        status,
        outcome,
        arrives: false,
    });

    let (path, kind, body) = (
        "/webhooks/stripe",
        "charge.succeeded",
        event("charge.succeeded"),
    );
    let signature = sign(&presets::stripe(), &current, &body, now - HALF_AN_HOUR)?;
    let (body, status, outcome) = (body.into(), 401, "invalid_signature");
    acts.push(Act {
        what: "stale",
        kind,
        path,
        body,
        signature,
        status,
        outcome,
        arrives: false,
    });

    let (path, kind, body) = ("/webhooks/slow", "user.created", event("user.created"));
    let signature = sign(&scheme, &current, &body, now)?;
    let (body, status, outcome) = (body.into(), 504, "budget_exceeded");
    acts.push(Act {
        what: "over budget",
        kind,
        path,
        body,
        signature,
        status,
        outcome,
        arrives: true,
    });
    Ok(acts)
}

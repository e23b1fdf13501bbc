//! Test events: made up for a route, signed with its secret, and sent to the gateway's own listener as a sender would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use ureq::Agent;

use super::operations::{Refused, Tested};
use crate::delivery::{TEST_MARK, TestMarks};
use crate::providers::sample_of;
use crate::route::Route;

/// Waited for beyond the route's budget.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends one, and waits for the answer.
pub(super) fn send(
    route: &Route,
    marks: &TestMarks,
    front: SocketAddr,
    kind: &str,
    data: Value,
) -> Result<Tested, Refused> {
    let now = Timestamp::now();
    let id = format!("evt_test_{:016x}", fastrand::u64(..));
    let sample = sample_of(&route.envelope, &|header| route.verifier.signs(header), kind, &id, now, data);
    let sample = sample.ok_or(Refused::CannotMakeEvent)?;
    let body = String::from_utf8(sample.body).map_err(|_| Refused::CannotMakeEvent)?;
    let signed = route.verifier.sign(&body, now, &id).ok_or(Refused::CannotSign)?;
    let (headers, body) = signed.map_err(|_| Refused::CannotMakeEvent)?;

    let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).proxy(None);
    let agent: Agent = config.timeout_global(Some(route.budget.total + PATIENCE)).build().into();
    let mut request = agent.post(format!("http://{}{}", reachable(front), route.path));
    request = request.header("Content-Type", "application/json");
    if let Some(host) = &route.host {
        request = request.header("Host", &**host);
    }
    for (name, value) in headers.iter() {
        request = request.header(name, value);
    }
    for (name, value) in &sample.headers {
        request = request.header(name, value);
    }
    request = request.header(TEST_MARK, marks.mark(body.as_bytes()));
    let began = Instant::now();
    let response = request.send(&body).map_err(|error| Refused::NoAnswer(error.to_string()))?;
    let outcome = response.headers().get("hookgate-outcome").and_then(|outcome| outcome.to_str().ok());
    let outcome = outcome.ok_or_else(|| Refused::NoAnswer("what answered is no gateway".into()))?;
    Ok(Tested {
        status: response.status().as_u16(),
        outcome: outcome.to_owned(),
        event_id: id,
        event_type: kind.to_owned(),
        duration: began.elapsed(),
    })
}

/// An address to connect to, for one that is listened on.
fn reachable(front: SocketAddr) -> SocketAddr {
    let ip = match front.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, front.port())
}

//! A gateway in this process, with one route, and the events that it accepts.

use std::net::SocketAddr;
use std::path::Path;

use hookstile::app::{App, Sockets};
use hookstile::config;
use hookstile::secret::Secret;
use hookstile::signature::presets;

pub const KEY: &str = "whsec_bench";

/// Starts a gateway with its store in `folder` and one route with this `delivery` mode.
pub async fn gateway(receiver: SocketAddr, delivery: &str, folder: &Path) -> App {
    let folder = folder.display();
    let yaml = format!(
        "listen: [{{address: '127.0.0.1:0'}}]\nadmin: {{address: '127.0.0.1:0'}}\nstore: {{path: '{folder}'}}\nroutes:\n  \
         - {{path: /hook, provider: vpn-enterprise, secrets: [{{env: KEY}}], upstream: 'http://{receiver}/hook', \
         delivery: {delivery}}}\n"
    );
    let loaded = config::load_text("bench.yaml", yaml, &|_| Some(KEY.into()))
        .unwrap_or_else(|report| panic!("{}", report.to_text(false)));
    App::start(loaded.config, Sockets::default())
        .await
        .expect("it starts")
}

/// Returns a body of `size` bytes like those of providers: names and values every few bytes.
pub fn event(number: u64, size: usize) -> String {
    const ITEM: &str = r#"{"user":"usr_8f14e45fceea","plan":"premium","bytes":1073741824,"active":true,"region":"eu-west-1"},"#;
    let mut body =
        format!(r#"{{"id":"evt_{number:020}","type":"user.created","data":{{"sessions":["#);
    let end = r#"{}],"note":""}}"#;
    while body.len() + ITEM.len() + end.len() <= size {
        body.push_str(ITEM);
    }
    let padding = size.saturating_sub(body.len() + end.len());
    body.push_str(r#"{}],"note":""#);
    body.extend(std::iter::repeat_n('x', padding));
    body.push_str("\"}}");
    body
}

/// Returns the signed request with that event.
pub fn signed_request(number: u64, size: usize) -> Vec<u8> {
    let body = event(number, size);
    let signed = presets::vpn_enterprise()
        .sign(
            &Secret::new(KEY).expect("not empty"),
            body.as_bytes(),
            jiff::Timestamp::UNIX_EPOCH,
            None,
        )
        .expect("signs");
    let (header, signature) = signed.iter().next().expect("one header");
    format!(
        "POST /hook HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         {header}: {signature}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

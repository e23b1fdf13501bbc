//! The demo's sender: posts events to the gateway as a provider would.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;

use crate::signature::Signed;

pub(super) struct Sender {
    connector: Connector,
    peer: HttpPeer,
    authority: String,
}

pub(super) struct GatewayResponse {
    pub(super) status: u16,
    /// The value of `Hookstile-Outcome`.
    pub(super) outcome: String,
    pub(super) duration: Duration,
}

impl Sender {
    pub(super) fn new(gateway: SocketAddr) -> Self {
        let peer = HttpPeer::new(gateway, false, String::new());
        Self {
            connector: Connector::new(None),
            peer,
            authority: gateway.to_string(),
        }
    }

    pub(super) async fn post(
        &self,
        path: &str,
        signature: &Signed,
        body: &[u8],
    ) -> Result<GatewayResponse, String> {
        self.try_post(path, signature, body)
            .await
            .map_err(|error| format!("cannot send to the gateway: {error}"))
    }

    async fn try_post(
        &self,
        path: &str,
        signature: &Signed,
        body: &[u8],
    ) -> pingora_core::Result<GatewayResponse> {
        let started = Instant::now();
        let mut head = RequestHeader::build("POST", path.as_bytes(), Some(4))?;
        head.insert_header("Host", &*self.authority)?;
        head.insert_header("Content-Type", "application/json")?;
        head.insert_header("Content-Length", body.len())?;
        for (name, value) in signature.iter() {
            head.insert_header(name.to_owned(), value)?;
        }
        let (mut session, _) = self.connector.get_http_session(&self.peer).await?;
        session.write_request_header(Box::new(head)).await?;
        session
            .write_request_body(Bytes::copy_from_slice(body), true)
            .await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let (status, outcome) = session
            .response_header()
            .map_or_else(Default::default, |head| {
                let outcome = head
                    .headers
                    .get("hookstile-outcome")
                    .and_then(|value| value.to_str().ok());
                (head.status.as_u16(), outcome.unwrap_or_default().to_owned())
            });
        while session.read_response_body().await?.is_some() {}
        let response = GatewayResponse {
            status,
            outcome,
            duration: started.elapsed(),
        };
        self.connector
            .release_http_session(session, &self.peer, None)
            .await;
        Ok(response)
    }
}

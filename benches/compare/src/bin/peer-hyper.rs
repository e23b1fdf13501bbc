//! A plain proxy on hyper that verifies signatures and, with `--replay`, rejects known IDs, which
//! it keeps in memory only.

use std::borrow::Cow;
use std::collections::HashSet;
use std::convert::Infallible;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use hookstile_compare::event::{PATH, SECRET};
use http_body_util::{BodyExt, Either, Empty, Limited};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use sha2::Sha256;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MOST_BYTES: usize = 1 << 20;

type Full = http_body_util::Full<Bytes>;
type ProxyResponse = Response<Either<Incoming, Empty<Bytes>>>;

struct Proxy {
    key: Hmac<Sha256>,
    upstream: Uri,
    client: Client<HttpConnector, Full>,
    known: Option<Mutex<HashSet<String>>>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [listen, upstream, options @ ..] = arguments.as_slice() else {
        return Err(Error::new(ErrorKind::InvalidInput, "usage: peer-hyper LISTEN UPSTREAM [--replay]").into());
    };
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let proxy = Arc::new(Proxy {
        key: Hmac::new_from_slice(SECRET.as_bytes())?,
        upstream: format!("http://{upstream}{PATH}").parse()?,
        client: Client::builder(TokioExecutor::new()).build(connector),
        known: options.contains(&"--replay".to_owned()).then(Mutex::default),
    });
    let listener = TcpListener::bind(listen.parse::<SocketAddr>()?).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            let service =
                hyper::service::service_fn(|request| async { Ok::<_, Infallible>(proxy.forward(request).await) });
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        });
    }
}

impl Proxy {
    async fn forward(&self, request: Request<Incoming>) -> ProxyResponse {
        self.try_forward(request).await.unwrap_or_else(|status| {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = status;
            response
        })
    }

    async fn try_forward(&self, request: Request<Incoming>) -> Result<ProxyResponse, StatusCode> {
        let (mut head, body) = request.into_parts();
        if head.uri.path() != PATH {
            return Err(StatusCode::NOT_FOUND);
        }
        let tag = tag(&head.headers).ok_or(StatusCode::UNAUTHORIZED)?;
        let body = self.verified(body, &tag).await?;
        if let Some(known) = &self.known {
            let event: Event = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
            if !known.lock().expect("not poisoned").insert(event.id.into_owned()) {
                return Err(StatusCode::CONFLICT);
            }
        }
        head.uri = self.upstream.clone();
        let response = self.client.request(Request::from_parts(head, Full::new(body))).await;
        Ok(response.map_err(|_| StatusCode::BAD_GATEWAY)?.map(Either::Left))
    }

    /// Reads the body and hashes it as it arrives.
    async fn verified(&self, body: Incoming, tag: &[u8]) -> Result<Bytes, StatusCode> {
        let mut body = Limited::new(body, MOST_BYTES);
        let mut mac = self.key.clone();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?.into_data() {
                mac.update(&data);
                bytes.extend_from_slice(&data);
            }
        }
        mac.verify_slice(tag).map_err(|_| StatusCode::UNAUTHORIZED)?;
        Ok(bytes.freeze())
    }
}

fn tag(headers: &HeaderMap) -> Option<Vec<u8>> {
    let signature = headers.get("x-vpn-signature")?.to_str().ok()?;
    hex::decode(signature.strip_prefix("sha256=").unwrap_or(signature)).ok()
}

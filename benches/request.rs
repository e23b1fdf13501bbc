//! The whole way of a request, in one process: sender, gateway and receiver over loopback sockets, one at a time.
//!
//! `direct` is the same sender straight at the receiver; the difference is what the gateway adds. Figures of one
//! machine say little; compare the rows of one run. Throughput and CPU time are for a side-by-side harness to measure.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::post;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hookgate::app::{App, Sockets};
use hookgate::config;
use hookgate::secret::Secret;
use hookgate::signature::presets;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

const KEY: &str = "whsec_bench";

fn request(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let receiver = runtime.block_on(receiver());
    let app = runtime.block_on(gateway(receiver));
    let mut group = c.benchmark_group("request");
    let mut number = 0;
    for size in [1 << 10, 1 << 14, 1 << 18] {
        group.throughput(Throughput::Bytes(size as u64));
        for (name, address) in [("gateway", app.data[0]), ("direct", receiver)] {
            let mut connection = runtime.block_on(TcpStream::connect(address)).expect("it listens");
            connection.set_nodelay(true).expect("a TCP socket");
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter_batched(
                    || {
                        number += 1;
                        signed_request(number, size)
                    },
                    |request| runtime.block_on(exchange(&mut connection, &request)),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

async fn receiver() -> SocketAddr {
    let router = Router::new().route("/hook", post(|_: axum::body::Bytes| async { "OK" }));
    let router = router.layer(axum::extract::DefaultBodyLimit::disable());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn gateway(receiver: SocketAddr) -> App {
    let yaml = format!(
        "listen: [{{address: '127.0.0.1:0'}}]\nadmin: {{address: '127.0.0.1:0'}}\nroutes:\n  - {{path: /hook, \
         provider: vpn-enterprise, secrets: [{{env: KEY}}], upstream: 'http://{receiver}/hook'}}\n"
    );
    let loaded = config::load_text("bench.yaml", yaml, &|_| Some(KEY.into()))
        .unwrap_or_else(|report| panic!("{}", report.to_text(false)));
    App::start(loaded.config, Sockets::default()).await.expect("it starts")
}

fn signed_request(number: u64, size: usize) -> Vec<u8> {
    let mut body = format!(r#"{{"id":"evt_{number}","type":"user.created","data":{{"note":""#);
    let pad = size.saturating_sub(body.len() + 3);
    body.extend(std::iter::repeat_n('x', pad));
    body.push_str("\"}}");
    let signed = presets::vpn_enterprise()
        .sign(&Secret::new(KEY).expect("not empty"), body.as_bytes(), jiff::Timestamp::UNIX_EPOCH, None)
        .expect("signs");
    let (header, signature) = signed.iter().next().expect("one header");
    format!(
        "POST /hook HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         {header}: {signature}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

async fn exchange(connection: &mut TcpStream, request: &[u8]) {
    connection.write_all(request).await.expect("it reads");
    let mut answer = Vec::with_capacity(1024);
    while !answer.ends_with(b"\r\n\r\nOK") {
        let read = connection.read_buf(&mut answer).await.expect("it answers");
        assert!(read > 0 && answer.len() < 4096, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

criterion_group!(benches, request);
criterion_main!(benches);

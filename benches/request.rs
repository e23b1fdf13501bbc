//! The complete path of a request in one process: sender, gateway and receiver over loopback
//! sockets, one at a time.
//!
//! `direct` is the same sender connected straight to the receiver; the difference is the gateway's
//! cost. Compare rows of one run only: absolute figures depend on the machine. `benches/compare`
//! measures throughput and CPU time.

#![allow(unreachable_pub, reason = "a benchmark has no public interface")]

#[path = "setup/gateway.rs"]
mod setup;

use std::net::SocketAddr;

use axum::Router;
use axum::routing::post;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use setup::{gateway, signed_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

fn request(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let receiver = runtime.block_on(receiver());
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let app = runtime.block_on(gateway(receiver, "proxy", folder.path()));
    let mut group = c.benchmark_group("request");
    let mut number = 0;
    for size in [1 << 10, 1 << 14, 1 << 18] {
        group.throughput(Throughput::Bytes(size as u64));
        for (name, address) in [
            ("gateway", app.data[0].inet().expect("TCP")),
            ("direct", receiver),
        ] {
            let mut connection = runtime
                .block_on(TcpStream::connect(address))
                .expect("it listens");
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

async fn exchange(connection: &mut TcpStream, request: &[u8]) {
    connection.write_all(request).await.expect("it reads");
    let mut response = Vec::with_capacity(1024);
    while !response.ends_with(b"\r\n\r\nOK") {
        let read = connection
            .read_buf(&mut response)
            .await
            .expect("it answers");
        assert!(
            read > 0 && response.len() < 4096,
            "{}",
            String::from_utf8_lossy(&response)
        );
    }
    assert!(
        response.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&response)
    );
}

criterion_group!(benches, request);
criterion_main!(benches);

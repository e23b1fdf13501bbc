//! The PostgreSQL that the tests run against and the network link to it: the disturbances work as
//! real ones do.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

/// The request that asks whether the server speaks TLS: the shortest message of the protocol,
/// answered with one byte.
const ASKS_FOR_TLS: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

async fn ask_for_tls(address: SocketAddr) -> TcpStream {
    let mut stream = within("a connection", TcpStream::connect(address))
        .await
        .expect("a connection");
    stream.write_all(&ASKS_FOR_TLS).await.expect("a question");
    stream
}

async fn is_answered(stream: &mut TcpStream) {
    assert_eq!(
        within("an answer", stream.read_u8())
            .await
            .expect("an answer"),
        b'N'
    );
}

#[track_caller]
fn is_unanswered(stream: &TcpStream) {
    assert_eq!(
        stream.try_read(&mut [0]).expect_err("no answer").kind(),
        ErrorKind::WouldBlock
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_database_survives_crash() {
    let Some(mut postgres) = Postgres::start().await else {
        return;
    };
    postgres.sql("create table kept (id int); insert into kept values (1), (2)");
    postgres.crash().await;
    postgres.restart().await;
    assert_eq!(postgres.sql("select id from kept order by id"), "1\n2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_database_answers_once_resumed() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres.freeze().await;
    let mut stream = ask_for_tls(postgres.address()).await;
    is_unanswered(&stream);
    postgres.resume();
    is_answered(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_link_passes_nothing_until_restored() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut link = Link::open(postgres.address()).await;
    let mut before = ask_for_tls(link.address()).await;
    is_answered(&mut before).await;
    link.partition();
    before
        .write_all(&ASKS_FOR_TLS)
        .await
        .expect("an open connection");
    let mut during = ask_for_tls(link.address()).await;
    // A response that was sent would arrive within this time.
    is_answered(&mut ask_for_tls(postgres.address()).await).await;
    is_unanswered(&before);
    is_unanswered(&during);
    link.restore().await;
    is_answered(&mut during).await;
    // The server rejects a second request, but it responds to it.
    within("a response", before.read_u8())
        .await
        .expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn severed_link_refuses_until_restored() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut link = Link::open(postgres.address()).await;
    let mut before = ask_for_tls(link.address()).await;
    is_answered(&mut before).await;
    link.sever().await;
    assert!(within("the end", before.read_u8()).await.is_err(), "closed");
    let refused = TcpStream::connect(link.address())
        .await
        .expect_err("no listener");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    link.restore().await;
    is_answered(&mut ask_for_tls(link.address()).await).await;
}

//! The PostgreSQL that tests run against, and the line to it: disturbed as they will be in earnest.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

/// Asks whether the server would speak TLS: the shortest question of its protocol, answered with one byte.
const ASKS_FOR_TLS: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

async fn ask(address: SocketAddr) -> TcpStream {
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
async fn the_engine_of_the_tests_survives_a_crash() {
    let Some(mut postgres) = Postgres::start().await else {
        return;
    };
    postgres.sql("create table kept (id int); insert into kept values (1), (2)");
    postgres.crash().await;
    postgres.restart().await;
    assert_eq!(postgres.sql("select id from kept order by id"), "1\n2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_engine_answers_once_it_is_thawed() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres.freeze().await;
    let mut stream = ask(postgres.address()).await;
    is_unanswered(&stream);
    postgres.thaw();
    is_answered(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_line_passes_nothing_until_it_is_mended() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut line = Cut::to(postgres.address()).await;
    let mut before = ask(line.address()).await;
    is_answered(&mut before).await;
    line.cut();
    before
        .write_all(&ASKS_FOR_TLS)
        .await
        .expect("a connection that nobody has closed");
    let mut during = ask(line.address()).await;
    // Time enough for an answer, were there one.
    is_answered(&mut ask(postgres.address()).await).await;
    is_unanswered(&before);
    is_unanswered(&during);
    line.mend().await;
    is_answered(&mut during).await;
    // Asked twice, it complains; but it was asked.
    within("an answer", before.read_u8())
        .await
        .expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_severed_line_closes_and_refuses_until_it_is_mended() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut line = Cut::to(postgres.address()).await;
    let mut before = ask(line.address()).await;
    is_answered(&mut before).await;
    line.sever().await;
    assert!(within("the end", before.read_u8()).await.is_err(), "closed");
    let refused = TcpStream::connect(line.address())
        .await
        .expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    line.mend().await;
    is_answered(&mut ask(line.address()).await).await;
}

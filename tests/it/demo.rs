//! `hookstile demo`: live until it is interrupted, or each outcome once.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::harness::command::{Run, command, finish};
use crate::harness::process::Process;
use crate::harness::*;

async fn run_in(folder: &TempDir, arguments: &[&str]) -> Run {
    let mut command = command();
    command.current_dir(folder.path()).args(arguments);
    finish(command).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_runs_until_interrupted() {
    let mut demo = command();
    demo.args(["demo", "--admin", "127.0.0.1:0"]);
    let demo = Process::spawn(&mut demo);
    let dashboard = demo.wait_for_output("dashboard").await;
    let address = dashboard
        .split(['/', ' '])
        .find_map(|word| word.parse::<SocketAddr>().ok())
        .unwrap_or_else(|| panic!("{dashboard}"));
    demo.wait_for_output("next        hookstile init").await;
    demo.wait_for_output("the application of orders fails")
        .await;
    let admin = format!("--admin={address}");
    let folder = tempfile::tempdir().expect("a folder");
    let status = run_in(&folder, &["status", "--json", &admin]).await;
    assert_eq!(
        status.assert(0).json()["webhooks"].as_array().map(Vec::len),
        Some(3)
    );
    eventually("events wait", async || {
        let list = [
            "events", "list", "--route", "orders", "--status", "pending", "--json", &admin,
        ];
        let page = run_in(&folder, &list).await.json();
        page["total"].as_u64() > Some(0)
    })
    .await;
    demo.wait_for_output("the application of orders is back")
        .await;
    eventually("all are delivered", async || {
        let list = [
            "events", "list", "--route", "orders", "--status", "pending", "--json", &admin,
        ];
        let page = run_in(&folder, &list).await.json();
        page["total"].as_u64() == Some(0)
    })
    .await;
    let rejected = run_in(&folder, &["rejections", "list", "--json", &admin]).await;
    let outcomes = rejected.assert(0).stdout.clone();
    assert!(
        outcomes.contains("invalid_signature") && outcomes.contains("duplicate"),
        "{outcomes}"
    );
    let lines = demo.stdout().lines().count();
    assert_eq!(lines, 10, "{}", demo.stdout());
    demo.signal("INT");
    assert!(demo.wait_for_exit().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_once_shows_each_outcome() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = run_in(&folder, &["demo", "--once"]).await;
    let table = &run.assert(0).stdout;
    assert!(table.contains("steps had the expected result."), "{table}");
    for outcome in [
        "delivered",
        "duplicate",
        "invalid_signature",
        "budget_exceeded",
    ] {
        assert!(table.contains(outcome), "{outcome}: {table}");
    }
}

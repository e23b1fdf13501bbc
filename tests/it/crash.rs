//! Repeated kills under load: the gateway loses no event and repeats none without a reason.

use crate::harness::*;

/// Kills per run. The proxy, queue and spill routes go through all of them.
const ROUNDS: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_kills_under_load_keep_every_promise() {
    let mut load_test = LoadTest::start().await;
    for round in 0..ROUNDS {
        // Kills at a different point of the work each round: at once at first, then later and
        // later.
        load_test.wait_for_progress(round * 7 % 25).await;
        load_test.kill().await;
        load_test.restart().await;
    }
    load_test.wait_for_progress(10).await;
    load_test.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_during_start_does_not_stop_next_start() {
    let mut load_test = LoadTest::start().await;
    for wait in 0..8 {
        load_test.kill().await;
        let setup = load_test.setup_with_launcher(Launcher::default());
        load_test.gateway.launch_with(setup);
        // The start's progress is not visible from outside, so each round lets it run a little
        // longer.
        tokio::time::sleep(std::time::Duration::from_millis(wait * 8)).await;
    }
    load_test.kill().await;
    load_test.restart().await;
    load_test.wait_for_progress(10).await;
    load_test.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_stops_under_load_keep_every_promise() {
    let mut load_test = LoadTest::start().await;
    for round in 0..5 {
        load_test.wait_for_progress(5 + round).await;
        assert_eq!(load_test.gateway.stop().await.code(), Some(0));
        load_test.restart().await;
    }
    // No process was killed, so no delivery may be repeated.
    load_test.finish().await;
}

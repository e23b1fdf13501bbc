//! Killed again and again under load, the gateway loses nothing and forwards nothing twice without cause.

use crate::harness::*;

/// Each of proxy, queue and spill goes through all of them.
const ROUNDS: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_under_load_it_keeps_every_promise() {
    let mut trial = Trial::start().await;
    for round in 0..ROUNDS {
        // Never at the same point of the work: at once, and after more and more of it.
        trial.progresses(round * 7 % 25).await;
        trial.kill().await;
        trial.restart().await;
    }
    trial.progresses(10).await;
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_starts_it_starts_the_next_time() {
    let mut trial = Trial::start().await;
    for wait in 0..8 {
        trial.kill().await;
        let setup = trial.setup_under(Under::default());
        trial.gateway.launch_with(setup);
        // What it does meanwhile can't be seen from here: a little more of its start each time.
        tokio::time::sleep(std::time::Duration::from_millis(wait * 8)).await;
    }
    trial.kill().await;
    trial.restart().await;
    trial.progresses(10).await;
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_again_and_again_under_load_it_keeps_every_promise() {
    let mut trial = Trial::start().await;
    for round in 0..5 {
        trial.progresses(5 + round).await;
        assert_eq!(trial.gateway.stop().await.code(), Some(0));
        trial.restart().await;
    }
    // Nothing was killed: not one delivery may have been repeated.
    trial.judge().await;
}

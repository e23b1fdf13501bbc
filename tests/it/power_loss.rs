//! Losses of power under load: what is flushed is kept, what is not is gone, and no promise is
//! broken, whether the machine has started again or only its disk was away.
//!
//! `make test` runs some rounds, `make power-loss` 200 (`HOOKSTILE_POWER_LOSS_ROUNDS`).

mod disk; // a disk that can lose its power, and the machine's boot ID
mod lost_writes; // the same at any moment, with any of what was not flushed
mod writes; // what a gateway writes, and what a loss leaves of it

use std::time::Instant;

use crate::harness::history::{Disturbance, Durability, PowerLoss};
use crate::harness::load_test::assert_store_is_intact;
use crate::harness::*;
use disk::Disk;

/// The usual number of losses in each test.
const ROUNDS: usize = 3;
/// Each disk suffers this many at most. More would fill it, and the memory with the history that
/// the checker needs.
const ROUNDS_OF_A_DISK: usize = 10;

/// What the loss does to the machine.
#[derive(Clone, Copy, PartialEq)]
enum Boot {
    /// The machine starts again.
    New,
    /// The machine goes on: the disk alone was without power.
    Same,
}

fn rounds() -> usize {
    std::env::var("HOOKSTILE_POWER_LOSS_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(ROUNDS)
}

/// Loses the power under load, again and again, and checks the history of all routes.
async fn lose_power_under_load(durability: Durability, boot: Boot) {
    let rounds: Vec<usize> = (0..rounds()).collect();
    for rounds in rounds.chunks(ROUNDS_OF_A_DISK) {
        let Some(disk) = Disk::new() else {
            return;
        };
        lose_power_of(disk, rounds, durability, boot).await;
    }
}

async fn lose_power_of(mut disk: Disk, rounds: &[usize], durability: Durability, boot: Boot) {
    let setting = match durability {
        Durability::Strict => "strict",
        Durability::Relaxed => "relaxed",
    };
    let store = format!("{{path: hookstile-data/store, durability: {setting}}}");
    let mut load_test = LoadTest::start_with(
        |setup| setup.with("store", &store).launched_by(disk.launcher()),
        |route| route,
    )
    .await;
    for &round in rounds {
        // At a different point of the work each round.
        load_test.wait_for_progress(round * 37 % 61).await;
        lose_power(&mut load_test, &mut disk, round, (durability, boot)).await;
        if round % 3 == 1 {
            // While it recovers from the last loss.
            let setup = load_test.setup_with_launcher(disk.launcher());
            load_test.gateway.launch_with(setup);
            lose_power(&mut load_test, &mut disk, round, (durability, boot)).await;
        }
        load_test.restart().await;
    }
    load_test.wait_for_progress(10).await;
    let (gateway, histories) = load_test.end().await;
    disk.copy("store", &gateway.store());
    assert_store_is_intact(&gateway);
    for history in histories {
        history.assert_sound();
    }
}

/// Loses the power once; the gateway stays down.
async fn lose_power(
    load_test: &mut LoadTest,
    disk: &mut Disk,
    round: usize,
    (durability, boot): (Durability, Boot),
) {
    let from = Instant::now();
    disk.lose_power(&load_test.gateway, round * 13 % 97, round);
    load_test.gateway.kill().await;
    let evident = boot == Boot::New;
    let loss = PowerLoss {
        durability,
        evident,
    };
    load_test.record_disturbance(Disturbance::power_loss(from, loss));
    if boot == Boot::New {
        disk.restart_machine();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_breaks_no_promise() {
    lose_power_under_load(Durability::Strict, Boot::New).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_disk_breaks_no_promise() {
    lose_power_under_load(Durability::Strict, Boot::Same).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_store_loses_one_run_only() {
    lose_power_under_load(Durability::Relaxed, Boot::New).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_lost_disk_loses_one_run_only() {
    lose_power_under_load(Durability::Relaxed, Boot::Same).await;
}

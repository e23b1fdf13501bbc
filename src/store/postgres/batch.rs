//! Batches concurrent jobs into one statement. While a statement is in flight, new jobs queue up
//! and form the next batch; there is no timer.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

/// The limit of jobs in one batch.
const JOBS_MAX: usize = 512;
/// The approximate limit of payload bytes in one batch.
const BYTES_MAX: usize = 8 << 20;

/// Starts `workers` tasks that pass the queued jobs to `run`, one batch at a time. They end when
/// the senders are dropped.
pub(super) fn start<J, F>(
    incoming: mpsc::UnboundedReceiver<J>,
    workers: usize,
    bytes_of: fn(&J) -> usize,
    run: impl Fn(Vec<J>) -> F + Send + Sync + 'static,
) where
    J: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (incoming, run) = (Arc::new(Mutex::new(incoming)), Arc::new(run));
    for _ in 0..workers {
        let (incoming, run) = (Arc::clone(&incoming), Arc::clone(&run));
        tokio::spawn(async move {
            loop {
                let batch = next_batch(&mut *incoming.lock().await, bytes_of).await;
                if batch.is_empty() {
                    return;
                }
                run(batch).await;
            }
        });
    }
}

async fn next_batch<J>(
    incoming: &mut mpsc::UnboundedReceiver<J>,
    bytes_of: fn(&J) -> usize,
) -> Vec<J> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let mut next = incoming.recv().await;
    while let Some(job) = next {
        bytes += bytes_of(&job);
        batch.push(job);
        next = if batch.len() < JOBS_MAX && bytes < BYTES_MAX {
            incoming.try_recv().ok()
        } else {
            None
        };
    }
    batch
}

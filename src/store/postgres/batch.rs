//! Many askers, few statements: what has come since the last one goes with the next. No timer; the answer that is waited
//! for does the gathering.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

/// Jobs in one batch.
const JOBS_MAX: usize = 512;
/// Payload bytes in one batch, about.
const BYTES_MAX: usize = 8 << 20;

/// Has `run` do the jobs, as many as have come, in so many places at once. Ends when the senders are dropped.
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
                let batch = gather(&mut *incoming.lock().await, bytes_of).await;
                if batch.is_empty() {
                    return;
                }
                run(batch).await;
            }
        });
    }
}

async fn gather<J>(incoming: &mut mpsc::UnboundedReceiver<J>, bytes_of: fn(&J) -> usize) -> Vec<J> {
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

//! Many askers, few statements: what has come since the last one goes with the next. No timer; the answer that is waited
//! for does the gathering.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

/// Has `run` do the jobs, as many as have come and `most` at once, in so many places. Ends when the sender is dropped.
pub(super) fn start<J, F>(
    workers: usize,
    most: usize,
    run: impl Fn(Vec<J>) -> F + Send + Sync + 'static,
) -> mpsc::UnboundedSender<J>
where
    J: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (jobs, incoming) = mpsc::unbounded_channel();
    let (incoming, run) = (Arc::new(Mutex::new(incoming)), Arc::new(run));
    for _ in 0..workers {
        let (incoming, run) = (Arc::clone(&incoming), Arc::clone(&run));
        tokio::spawn(async move {
            loop {
                let mut batch = Vec::new();
                if incoming.lock().await.recv_many(&mut batch, most).await == 0 {
                    return;
                }
                run(batch).await;
            }
        });
    }
    jobs
}

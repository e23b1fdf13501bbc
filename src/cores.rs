//! The runtimes of the data plane: a thread with a runtime of its own for each core.
//!
//! A connection is given to a core and stays there, with its requests and with the connections that
//! these open to upstreams. So a request changes no thread, and cores share no queue of tasks and no
//! I/O driver. The queues of routes are given to cores in the same way. Everything else runs beside
//! them, on the runtime of the process.

use std::cell::Cell;
use std::num::NonZero;
use std::{io, thread};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The most threads of a core for what takes long: reads of the store, and parsing large bodies. More
/// than a core can run would only take memory.
const BLOCKING_THREADS_MAX: usize = 16;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// Returns the number of cores: as many as the process may use at the same time.
pub(crate) fn count() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Returns the number of the core that this thread runs, from 1; 0 on any other thread.
pub(crate) fn number() -> usize {
    NUMBER.get()
}

/// The running cores. Their tasks end when this is dropped.
#[derive(Debug)]
pub(crate) struct Cores {
    cores: Box<[Core]>,
}

#[derive(Debug)]
struct Core {
    runtime: Handle,
    /// Dropped to end the thread.
    _running: oneshot::Sender<()>,
}

impl Cores {
    /// Starts [`count`] of them.
    ///
    /// # Errors
    /// When the system refuses a thread or a descriptor.
    pub(crate) fn start() -> io::Result<Self> {
        let cores = (1..=count()).map(Core::start);
        Ok(Self {
            cores: cores.collect::<io::Result<_>>()?,
        })
    }

    /// Returns the runtime of the core that has the fewest tasks. A connection is a task, and so is
    /// each request of one over HTTP/2.
    ///
    /// # Panics
    /// Never: there is always a core.
    pub(crate) fn idlest(&self) -> &Handle {
        let runtimes = self.cores.iter().map(|core| &core.runtime);
        runtimes
            .min_by_key(|runtime| runtime.metrics().num_alive_tasks())
            .expect("there is a core")
    }
}

impl Core {
    fn start(number: usize) -> io::Result<Self> {
        let name = format!("core-{number}");
        let runtime = Builder::new_current_thread()
            .enable_all()
            .thread_name(&*name)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel::<()>();
        thread::Builder::new().name(name).spawn(move || {
            NUMBER.set(number);
            let _ = runtime.block_on(ended);
            // Look-ups of names, and reads for operators, are not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self {
            runtime: handle,
            _running: running,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::future::pending;

    use super::*;

    #[test]
    fn tasks_spread_evenly_over_the_cores() {
        let cores = Cores::start().unwrap();
        let mut given = BTreeMap::new();
        for _ in 0..cores.cores.len() * 100 {
            let core = cores.idlest();
            core.spawn(pending::<()>());
            *given.entry(core.id().to_string()).or_insert(0) += 1;
        }
        let counts: Vec<_> = given.into_values().collect();
        assert_eq!(counts, vec![100; cores.cores.len()]);
    }

    #[test]
    fn a_task_runs_on_the_core_that_it_was_given_to() {
        let cores = Cores::start().unwrap();
        assert_eq!(number(), 0);
        for (index, core) in cores.cores.iter().enumerate() {
            let (sender, receiver) = oneshot::channel();
            core.runtime.spawn(async move { sender.send(number()) });
            assert_eq!(receiver.blocking_recv(), Ok(index + 1));
        }
    }

    #[test]
    fn tasks_end_with_the_cores() {
        let cores = Cores::start().unwrap();
        let (held, ended) = oneshot::channel::<()>();
        cores.idlest().spawn(async move {
            pending::<()>().await;
            drop(held);
        });
        drop(cores);
        assert!(ended.blocking_recv().is_err());
    }
}

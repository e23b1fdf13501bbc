//! The runtimes of the data plane: a thread with a runtime of its own for each core.
//!
//! A connection is given to a core and stays there, with its requests and with the connections that
//! these open to upstreams. So tasks do not move between threads, and cores share no queue of tasks
//! and no I/O driver. The queues of routes are given to cores in the same way. Everything else runs beside
//! them, on the runtime of the process.

use std::cell::Cell;
use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, thread};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The most threads of a core for what takes long: reads of the store, and parsing large bodies. More
/// than a core can run would only take memory.
const BLOCKING_THREADS_MAX: usize = 16;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// What each core has to do, by its number.
static LOADS: OnceLock<Box<[Load]>> = OnceLock::new();

/// The number of deliveries that a core works on. Aligned, so that no two cores write one cache line.
#[derive(Default)]
#[repr(align(64))]
struct Load(AtomicUsize);

impl Load {
    fn of_core(core: usize) -> &'static Self {
        let loads = LOADS.get_or_init(|| (0..=count()).map(|_| Self::default()).collect());
        &loads[core % loads.len()]
    }
}

/// A delivery that the current core works on, until this is dropped. Connections and unverified requests
/// do not count: anyone could hold some on one core, and so direct the connections of others.
pub(crate) struct Delivering(&'static Load);

impl Delivering {
    pub(crate) fn begin() -> Self {
        let load = Load::of_core(number());
        load.0.fetch_add(1, Ordering::Relaxed);
        Self(load)
    }
}

impl Drop for Delivering {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
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
    /// The turn of the cores that have equally much to do.
    turn: AtomicUsize,
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
            turn: AtomicUsize::new(0),
        })
    }

    /// Returns the runtime of the core that has the fewest deliveries, and of equal ones the next in turn.
    ///
    /// # Panics
    /// Never: there is always a core.
    pub(crate) fn idlest(&self) -> &Handle {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..self.cores.len()).map(|later| {
            let index = first.wrapping_add(later) % self.cores.len();
            (index + 1, &self.cores[index].runtime)
        });
        let idlest =
            in_turn.min_by_key(|(number, _)| Load::of_core(*number).0.load(Ordering::Relaxed));
        idlest.expect("there is a core").1
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
    fn equal_cores_take_turns_and_busy_ones_are_passed_over() {
        let cores = Cores::start().unwrap();
        let given = |rounds: usize| {
            let mut given = BTreeMap::new();
            for _ in 0..cores.cores.len() * rounds {
                *given.entry(cores.idlest().id().to_string()).or_insert(0) += 1;
            }
            given
        };
        let counts: Vec<_> = given(100).into_values().collect();
        assert_eq!(counts, vec![100; cores.cores.len()]);
        let busy = &cores.cores[0].runtime;
        let delivering = busy.spawn(async { Delivering::begin() });
        let delivering = busy.block_on(delivering).unwrap();
        if cores.cores.len() > 1 {
            assert!(!given(10).contains_key(&busy.id().to_string()));
        }
        drop(delivering);
        assert_eq!(given(10)[&busy.id().to_string()], 10);
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

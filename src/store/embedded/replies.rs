//! The replies of the writer to those that wait for a commit.
//!
//! To wake a task of a runtime from outside takes a system call, and a commit has the jobs of many
//! tasks. So the replies that one runtime waits for are handed to it together, and it wakes its
//! tasks itself.

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::StoreError;

/// Who waits for a job's reply.
pub(super) struct Done<T> {
    reply: oneshot::Sender<Result<T, StoreError>>,
    /// The runtime that waits; `None` outside of any.
    runtime: Option<Handle>,
}

impl<T> Done<T> {
    /// Returns the two ends of a reply that the current runtime waits for.
    pub(super) fn channel() -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, receiver) = oneshot::channel();
        let runtime = Handle::try_current().ok();
        (Self { reply, runtime }, receiver)
    }

    /// Replies at once. The caller may have ceased to wait.
    pub(super) fn send(self, result: Result<T, StoreError>) {
        let _ = self.reply.send(result);
    }
}

/// The replies of one commit that are still to be sent.
pub(super) struct Replies<T>(Vec<(Handle, Vec<Unsent<T>>)>);

type Unsent<T> = (oneshot::Sender<Result<T, StoreError>>, T);

impl<T> Default for Replies<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Send + 'static> Replies<T> {
    /// Adds the reply of a job that was committed.
    pub(super) fn add(&mut self, done: Done<T>, result: T) {
        let Some(runtime) = done.runtime else {
            let _ = done.reply.send(Ok(result));
            return;
        };
        let id = runtime.id();
        let unsent = (done.reply, result);
        match self.0.iter_mut().find(|(runtime, _)| runtime.id() == id) {
            Some((_, others)) => others.push(unsent),
            None => self.0.push((runtime, vec![unsent])),
        }
    }

    /// Sends all of them.
    pub(super) fn send(self) {
        for (runtime, mut replies) in self.0 {
            if replies.len() == 1 {
                send_all(&mut replies);
            } else {
                runtime.spawn(async move { send_all(&mut replies) });
            }
        }
    }
}

fn send_all<T>(replies: &mut Vec<Unsent<T>>) {
    for (reply, result) in replies.drain(..) {
        let _ = reply.send(Ok(result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_caller_gets_its_own_reply() {
        let runtimes: Vec<_> = (0..2)
            .map(|_| {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                builder.build().unwrap()
            })
            .collect();
        let mut replies = Replies::default();
        let mut waiting = Vec::new();
        for number in 0..7 {
            // The last one waits outside of a runtime.
            let _runtime = runtimes.get(number % 3).map(|runtime| runtime.enter());
            let (done, receiver) = Done::channel();
            replies.add(done, number);
            waiting.push(receiver);
        }
        replies.send();
        for (number, receiver) in waiting.into_iter().enumerate() {
            let runtime = &runtimes[number % 3 % 2];
            assert_eq!(runtime.block_on(receiver).unwrap().unwrap(), number);
        }
    }
}

//! What keeps a route's events from being delivered now. It is told before events are redelivered.

use std::time::Instant;

use super::Operations;
use super::numbers::RECENT_MINUTES;
use crate::activity::{MINUTES, MinuteBucket};

/// The reason why a redelivery to a route would not be delivered now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum Obstacle {
    /// The route is not configured.
    Removed,
    /// An operator has paused the route.
    Paused,
    /// All of this many recent attempts failed.
    Failing { attempts: u64 },
}

impl Operations {
    /// Returns the obstacle to deliveries on a route, if there is one. Reads nothing from the disk.
    pub(crate) fn obstacle(&self, name: &str) -> Option<Obstacle> {
        let Some(activity) = self.state.activity.route(name) else {
            return Some(Obstacle::Removed);
        };
        if self.state.queue.is_paused(name) {
            return Some(Obstacle::Paused);
        }
        let now = Instant::now();
        activity.sample(now);
        let history = &activity.sender.as_ref()?.history;
        failing(&history.last_hour(now))
    }

    /// Returns how many of the last hour's minutes are known for a route.
    pub(crate) fn minutes_known(&self, name: &str) -> usize {
        let activity = self.state.activity.route(name);
        let sender = activity.as_ref().and_then(|route| route.sender.as_ref());
        sender.map_or(0, |sender| sender.history.minutes_known(Instant::now()))
    }
}

fn failing(hour: &[MinuteBucket; MINUTES]) -> Option<Obstacle> {
    let recent = &hour[MINUTES - RECENT_MINUTES..];
    let succeeded: u64 = recent.iter().map(|minute| minute.attempts_succeeded).sum();
    let failed: u64 = recent.iter().map(|minute| minute.attempts_failed).sum();
    (succeeded == 0 && failed > 0).then_some(Obstacle::Failing { attempts: failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_recent_success_is_no_obstacle() {
        let mut hour = [MinuteBucket::default(); MINUTES];
        hour[MINUTES - 6].attempts_failed = 9;
        assert_eq!(failing(&hour), None);
        hour[MINUTES - 5].attempts_failed = 2;
        hour[MINUTES - 1].attempts_failed = 1;
        assert_eq!(failing(&hour), Some(Obstacle::Failing { attempts: 3 }));
        hour[MINUTES - 2].attempts_succeeded = 1;
        assert_eq!(failing(&hour), None);
    }
}

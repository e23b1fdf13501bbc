//! After an outage: many events delivered again, at a pace, and an event forgotten so that it may pass once more.

use std::time::Duration;

use super::{Operations, Refused};
use crate::admin::AdminState;
use crate::admin::auth::Operator;
use crate::event::EventId;
use crate::ledger::{EventIdentity, ForgetResult, Redelivery, RedeliveryResult};
use crate::queue::Queue;
use crate::store::{DeliveryFilter, DeliveryId, DeliveryState, Store, StoreError};

/// Which deliveries to redeliver, and how.
pub struct Recovery {
    /// Without a state, those that failed or are dead.
    pub filter: DeliveryFilter,
    /// Without one, all are due at once.
    pub pace: Option<Pace>,
    /// Only tells how many there are.
    pub dry_run: bool,
}

/// How many events a second are due at the most: above 0, and no more than [`Pace::MAX`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace(f64);

/// What became of a [`Recovery`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub dry_run: bool,
    pub matched: usize,
    /// Those that will be delivered again; in a dry run, those that could be.
    pub accepted: usize,
    /// Why the others are not, each with how many they are.
    pub refused: Vec<(Refused, usize)>,
}

/// The last event is due within this. A slower pace would hide what was given up among what waits.
const LONGEST: Duration = Duration::from_secs(72 * 3_600);

/// IDs that are read at once.
const PAGE: usize = 1_000;

/// Redeliveries that are written together, with one flush. Copies of their events wait that long.
const TOGETHER: usize = 64;

impl Pace {
    pub const MAX: f64 = 10_000.0;

    /// `None` for a number that is no pace.
    pub fn per_second(number: f64) -> Option<Self> {
        (number > 0.0 && number <= Self::MAX).then_some(Self(number))
    }

    /// How long after the first one the one with `before` others before it is due.
    fn after(self, before: u32) -> Duration {
        Duration::try_from_secs_f64(f64::from(before) / self.0).unwrap_or(Duration::MAX)
    }
}

impl Recovered {
    fn count(&mut self, redelivered: &RedeliveryResult) {
        match redelivered {
            RedeliveryResult::Queued(_) => self.accepted += 1,
            RedeliveryResult::InFlight => self.refuse(Refused::InFlight, 1),
            RedeliveryResult::Unknown => self.refuse(Refused::NoSuchDelivery, 1),
            RedeliveryResult::NoPayload => self.refuse(Refused::PayloadNotKept, 1),
        }
    }

    fn refuse(&mut self, refused: Refused, count: usize) {
        match self.refused.iter_mut().find(|(known, _)| *known == refused) {
            Some((_, counted)) => *counted += count,
            None if count > 0 => self.refused.push((refused, count)),
            None => {}
        }
    }
}

impl Operations {
    /// Has all events tried again that match, the oldest first.
    pub async fn redeliver_matching(
        &self,
        operator: Operator,
        recovery: Recovery,
    ) -> Result<Recovered, Refused> {
        self.carry_out("redeliver_matching", operator, recovery)
            .await
    }

    /// The same for a webhook after an outage.
    pub async fn recover(
        &self,
        operator: Operator,
        recovery: Recovery,
    ) -> Result<Recovered, Refused> {
        self.carry_out("recover", operator, recovery).await
    }

    /// A dry run changes nothing, and is not written down.
    async fn carry_out(
        &self,
        operation: &'static str,
        operator: Operator,
        recovery: Recovery,
    ) -> Result<Recovered, Refused> {
        let Recovery {
            filter,
            pace,
            dry_run,
        } = recovery;
        if dry_run {
            let chosen = Chosen::of(&self.subject.store, &filter).await?;
            chosen.check(pace)?;
            let recovered = Recovered {
                dry_run,
                accepted: chosen.redeliverable.len(),
                ..chosen.counted()
            };
            return self.told(&filter, recovered);
        }
        let recovered = self.redeliver_chosen(&filter, pace).await;
        operator.audited(
            operation,
            filter.route.as_deref().unwrap_or_default(),
            recovered,
        )
    }

    async fn redeliver_chosen(
        &self,
        filter: &DeliveryFilter,
        pace: Option<Pace>,
    ) -> Result<Recovered, Refused> {
        let _only = self
            .recovering
            .try_lock()
            .map_err(|_| Refused::RedeliveryUnderWay)?;
        let AdminState { store, queue, .. } = &self.subject;
        // All are known before the first is due: one that dies again is not tried for ever.
        let chosen = Chosen::of(store, filter).await?;
        chosen.check(pace)?;
        tracing::info!(
            matched = chosen.matched,
            route = filter.route,
            per_second = pace.map(|pace| pace.0),
            "events are delivered again, as an operator asked"
        );
        let recovered = redeliver_all(queue, store, chosen, pace).await;
        match &recovered {
            Ok(Recovered {
                matched, accepted, ..
            }) => tracing::info!(matched, accepted, "the redelivery is stored"),
            Err(error) => {
                tracing::error!(%error, "the redelivery was broken off; what was stored of it stays")
            }
        }
        self.told(filter, recovered?)
    }

    fn told(&self, filter: &DeliveryFilter, recovered: Recovered) -> Result<Recovered, Refused> {
        if recovered.matched == 0 {
            self.check_known(filter)?;
        }
        Ok(recovered)
    }

    /// Lets an event of this ID pass again. What is stored of it waits on.
    pub async fn forget(&self, operator: Operator, name: &str, id: EventId) -> Result<(), Refused> {
        let done = async {
            let route = self.find(name)?.route;
            let ledger = &self.subject.ledger;
            let identity = EventIdentity::from_operator(&route.envelope.id, &id)
                .ok_or(Refused::NoSuchEvent)?;
            match ledger.forget(ledger.keys(name, identity)).await? {
                ForgetResult::Forgotten => Ok(()),
                ForgetResult::InFlight => Err(Refused::InFlight),
                ForgetResult::Unknown => Err(Refused::NoSuchEvent),
            }
        };
        let subject = format!("{name}/{}", id.as_str());
        operator.audited("forget", &subject, done.await)
    }
}

/// The deliveries that a filter takes, as they stood when they were looked up.
#[derive(Default)]
struct Chosen {
    matched: usize,
    /// Those whose payload is kept, the oldest first.
    redeliverable: Vec<(DeliveryId, DeliveryState)>,
}

impl Chosen {
    async fn of(store: &Store, filter: &DeliveryFilter) -> Result<Self, StoreError> {
        let states = filter
            .state
            .map_or(vec![DeliveryState::Failed, DeliveryState::Dead], |state| {
                vec![state]
            });
        let mut chosen = Self::default();
        for state in states {
            let filter = DeliveryFilter {
                state: Some(state),
                ..filter.clone()
            };
            let mut after = DeliveryId(0);
            loop {
                let page = store
                    .matching_deliveries(filter.clone(), after, PAGE)
                    .await?;
                chosen.matched += page.len();
                chosen.redeliverable.extend(
                    page.iter()
                        .filter(|(_, kept)| *kept)
                        .map(|(id, _)| (*id, state)),
                );
                match page.last() {
                    Some((last, _)) if page.len() == PAGE => after = *last,
                    _ => break,
                }
            }
        }
        chosen.redeliverable.sort_unstable_by_key(|(id, _)| *id);
        Ok(chosen)
    }

    /// Whether all of them would be due within [`LONGEST`].
    fn check(&self, pace: Option<Pace>) -> Result<(), Refused> {
        let last = u32::try_from(self.redeliverable.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let too_slow = pace.is_some_and(|pace| pace.after(last) > LONGEST);
        if too_slow {
            Err(Refused::PaceTooSlow)
        } else {
            Ok(())
        }
    }

    /// With those refused that can't be redelivered, whatever becomes of the others.
    fn counted(&self) -> Recovered {
        let mut recovered = Recovered {
            matched: self.matched,
            ..Recovered::default()
        };
        recovered.refuse(
            Refused::PayloadNotKept,
            self.matched - self.redeliverable.len(),
        );
        recovered
    }
}

/// Redelivers what was chosen. The pace counts from now on, and is in when each is due: it needs nobody to keep it.
async fn redeliver_all(
    queue: &Queue,
    store: &Store,
    chosen: Chosen,
    pace: Option<Pace>,
) -> Result<Recovered, StoreError> {
    let mut recovered = chosen.counted();
    let now = store.now_due();
    let wanted = (0..)
        .zip(chosen.redeliverable)
        .map(|(number, (id, state))| {
            let due = now.after(pace.map_or(Duration::ZERO, |pace| pace.after(number)));
            Redelivery {
                id,
                expected_state: Some(state),
                due,
            }
        });
    let wanted: Vec<_> = wanted.collect();
    for together in wanted.chunks(TOGETHER) {
        let became = queue.redeliver(together).await?;
        for (wanted, became) in together.iter().zip(became) {
            match became {
                // Another of these may have had the same body, and with it the same name.
                RedeliveryResult::InFlight => {
                    queue
                        .redeliver(&[*wanted])
                        .await?
                        .into_iter()
                        .for_each(|became| recovered.count(&became));
                }
                became => recovered.count(&became),
            }
        }
    }
    Ok(recovered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_above_nothing_and_bounded() {
        for number in [0.0, -1.0, 10_000.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Pace::per_second(number), None, "{number}");
        }
        for number in [f64::MIN_POSITIVE, 0.5, 10_000.0] {
            assert_eq!(Pace::per_second(number), Some(Pace(number)));
        }
    }

    #[test]
    fn at_a_pace_each_is_due_as_much_after_the_one_before_and_never_beyond_all_time() {
        let two = Pace(2.0);
        assert_eq!(
            [0, 1, 2, 7].map(|before| two.after(before).as_millis()),
            [0, 500, 1_000, 3_500]
        );
        assert_eq!(Pace(f64::MIN_POSITIVE).after(1), Duration::MAX);
    }

    #[test]
    fn a_pace_that_would_take_more_than_three_days_is_refused() {
        let some = |count: i64| Chosen {
            matched: 0,
            redeliverable: (0..count)
                .map(|number| (DeliveryId(number), DeliveryState::Dead))
                .collect(),
        };
        assert_eq!(
            some(400).check(Pace::per_second(1e-300)),
            Err(Refused::PaceTooSlow)
        );
        assert_eq!(some(1).check(Pace::per_second(1e-300)), Ok(()));
        assert_eq!(some(1_000).check(Pace::per_second(0.01)), Ok(()));
        assert_eq!(some(1_000).check(None), Ok(()));
    }

    #[test]
    fn what_is_refused_is_counted_by_its_reason() {
        let chosen = Chosen {
            matched: 3,
            redeliverable: vec![(DeliveryId(1), DeliveryState::Dead)],
        };
        let mut recovered = chosen.counted();
        for became in [
            RedeliveryResult::NoPayload,
            RedeliveryResult::InFlight,
            RedeliveryResult::Queued("a".into()),
        ] {
            recovered.count(&became);
        }
        let refused = vec![(Refused::PayloadNotKept, 3), (Refused::InFlight, 1)];
        assert_eq!(
            recovered,
            Recovered {
                dry_run: false,
                matched: 3,
                accepted: 1,
                refused
            }
        );
        assert_eq!(Chosen::default().counted(), Recovered::default());
    }
}

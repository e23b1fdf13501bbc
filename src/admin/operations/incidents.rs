//! The incidents that this gateway notifies of by itself: all of them without other gateways, else
//! those that began while the shared store was the problem. They are in memory, one for each
//! problem. `store` has the same for several gateways.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::store::{SeenIncident, Untold, UntoldIncident};

/// The incidents by the keys of their problems.
#[derive(Default)]
pub(super) struct Incidents(BTreeMap<String, Incident>);

struct Incident {
    id: String,
    /// The problem as it was when it began or became worse.
    document: String,
    /// The severity in the document.
    severity: i16,
    /// The severity that the endpoint knows; 0 for none.
    told: i16,
    ended: Option<Instant>,
    /// The last attempt to send a notification of it.
    tried: Option<Instant>,
}

impl Incidents {
    pub(super) fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Enters a problem that has lasted.
    pub(super) fn enter(&mut self, seen: &SeenIncident) {
        let incident = self.0.entry(seen.key.clone()).or_insert_with(|| Incident {
            id: format!("{:032x}", fastrand::u128(..)),
            document: seen.document.clone(),
            severity: seen.severity,
            told: 0,
            ended: None,
            tried: None,
        });
        incident.ended = None;
        let severity = seen.lasting.min(seen.severity);
        if severity > incident.severity {
            incident.severity = severity;
            incident.document.clone_from(&seen.document);
        }
    }

    /// Ends the incidents of all other problems.
    pub(super) fn end_others(&mut self, goes_on: impl Fn(&str) -> bool, now: Instant) {
        for (key, incident) in &mut self.0 {
            if incident.ended.is_none() && !goes_on(key) {
                incident.ended = Some(now);
            }
        }
    }

    /// Drops the incidents that nobody could be notified of within this time of their end. Returns
    /// their number.
    pub(super) fn drop_late(&mut self, within: Duration, now: Instant) -> u64 {
        let before = self.0.len();
        let is_late = |end: Instant| now.saturating_duration_since(end) >= within;
        self.0
            .retain(|_, incident| !incident.ended.is_some_and(is_late));
        (before - self.0.len()) as u64
    }

    /// Returns an incident that somebody should be notified of. Those that were tried last come
    /// last.
    pub(super) fn due(&mut self, now: Instant) -> Option<UntoldIncident> {
        let untold =
            |incident: &Incident| incident.told < incident.severity || incident.ended.is_some();
        let due = self.0.values_mut().filter(|incident| untold(incident));
        let incident = due.min_by_key(|incident| incident.tried)?;
        incident.tried = Some(now);
        Some(UntoldIncident {
            id: incident.id.clone(),
            document: incident.document.clone(),
            untold: if incident.told < incident.severity {
                Untold::Began(incident.severity)
            } else {
                Untold::Ended
            },
        })
    }

    /// Records that a notification was accepted. An incident that went on after its end was sent is
    /// a new one.
    pub(super) fn mark_told(&mut self, told: &UntoldIncident) {
        self.0.retain(|_, incident| {
            if incident.id != told.id {
                return true;
            }
            match told.untold {
                Untold::Began(severity) => incident.told = incident.told.max(severity),
                Untold::Ended if incident.ended.is_some() => return false,
                Untold::Ended => {
                    incident.id = format!("{:032x}", fastrand::u128(..));
                    incident.told = 0;
                }
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(severity: i16, lasting: i16) -> SeenIncident {
        SeenIncident {
            key: "store_full ".into(),
            document: format!("of {severity}"),
            severity,
            lasting,
        }
    }

    /// Sends what is due, and returns what it was with its document.
    fn send(incidents: &mut Incidents) -> Option<(Untold, String, String)> {
        let due = incidents.due(Instant::now())?;
        incidents.mark_told(&due);
        Some((due.untold, due.document, due.id))
    }

    fn end(incidents: &mut Incidents) {
        incidents.end_others(|_| false, Instant::now());
    }

    #[test]
    fn incident_is_told_when_it_begins_and_ends() {
        let mut incidents = Incidents::default();
        incidents.enter(&seen(2, 2));
        let (untold, document, id) = send(&mut incidents).unwrap();
        assert_eq!((untold, &*document), (Untold::Began(2), "of 2"));
        incidents.enter(&seen(2, 2));
        assert_eq!(send(&mut incidents), None);
        end(&mut incidents);
        assert_eq!(send(&mut incidents), Some((Untold::Ended, document, id)));
        assert_eq!(send(&mut incidents), None);
    }

    #[test]
    fn worse_incident_is_told_again() {
        let mut incidents = Incidents::default();
        incidents.enter(&seen(2, 2));
        let (_, _, id) = send(&mut incidents).unwrap();
        incidents.enter(&seen(3, 2));
        assert_eq!(send(&mut incidents), None, "not critical for long enough");
        incidents.enter(&seen(2, 3));
        assert_eq!(send(&mut incidents), None, "a warning just now");
        incidents.enter(&seen(3, 3));
        let worse = (Untold::Began(3), "of 3".to_owned(), id);
        assert_eq!(send(&mut incidents), Some(worse));
        incidents.enter(&seen(2, 3));
        assert_eq!(send(&mut incidents), None);
    }

    #[test]
    fn end_follows_its_beginning() {
        let mut incidents = Incidents::default();
        incidents.enter(&seen(3, 2));
        end(&mut incidents);
        let refused = incidents.due(Instant::now()).unwrap();
        assert_eq!(refused.untold, Untold::Began(3));
        assert_eq!(send(&mut incidents).unwrap().0, Untold::Began(3));
        assert_eq!(send(&mut incidents).unwrap().0, Untold::Ended);
        assert_eq!(send(&mut incidents), None);
    }

    #[test]
    fn incident_that_goes_on_after_its_end_is_new() {
        let mut incidents = Incidents::default();
        incidents.enter(&seen(3, 3));
        let (_, _, first) = send(&mut incidents).unwrap();
        end(&mut incidents);
        incidents.enter(&seen(3, 3));
        assert_eq!(send(&mut incidents), None, "nobody knows of the end");
        end(&mut incidents);
        let ended = incidents.due(Instant::now()).unwrap();
        incidents.enter(&seen(3, 3));
        incidents.mark_told(&ended);
        let (untold, _, second) = send(&mut incidents).unwrap();
        assert_eq!(untold, Untold::Began(3));
        assert_ne!(first, second);
    }

    #[test]
    fn late_end_is_dropped() {
        let mut incidents = Incidents::default();
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        incidents.enter(&seen(3, 3));
        incidents.end_others(|_| false, now);
        assert_eq!(incidents.drop_late(hour, now + hour / 2), 0);
        assert_eq!(incidents.drop_late(hour, now + hour), 1);
        assert!(!incidents.contains("store_full "));
    }
}

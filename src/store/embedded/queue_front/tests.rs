use proptest::prelude::*;

use super::*;

const ROUTES: [&str; 3] = ["a", "b", "c"];
static BODY: [u8; 5 << 20] = [7; 5 << 20];

/// Returns an event as the file has it after this many changes.
fn held(route: &str, changes: u32, bytes: usize) -> HeldEvent {
    let history = AttemptHistory {
        attempts: changes,
        possibly_delivered: false,
    };
    let metadata = EventMetadata {
        route: route.into(),
        event_id: "evt".into(),
        event_type: "user.created".into(),
        received_at: Timestamp::UNIX_EPOCH,
        secret: "current".into(),
        is_test: false,
    };
    let payload = Payload {
        head: Bytes::new(),
        body: Bytes::from_static(&BODY[..bytes]),
    };
    HeldEvent::stored(&metadata, history, Uptime(0), payload)
}

fn stored(route: &str, id: i64, bytes: usize) -> FrontChange {
    FrontChange::Stored(DeliveryId(id), held(route, 0, bytes))
}

fn nothing_read(route: &str) -> FrontChange {
    FrontChange::Read {
        route: route.into(),
        read: FirstEvents {
            events: Vec::new(),
            end: None,
            max: ORDER_MIN,
        },
    }
}

/// Returns fronts that know that these routes have no event.
fn fronts(routes: &[&str]) -> Fronts {
    let mut fronts = Fronts::default();
    for route in routes {
        fronts.apply(nothing_read(route));
    }
    fronts
}

#[test]
fn route_holds_as_much_as_is_free() {
    let mut fronts = fronts(&["a", "b"]);
    for (route, first) in [("a", 0), ("b", 200)] {
        for id in first..first + 200 {
            fronts.apply(stored(route, id, 60_000));
        }
    }
    let share = |route: &str| fronts.routes[route].held_bytes * 100 / HELD_BYTES_MAX;
    assert_eq!((share("a"), share("b")), (50, 24));
    assert_eq!(fronts.held.len(), 208);
}

#[test]
fn forgotten_routes_free_their_memory() {
    let mut fronts = fronts(&["a"]);
    fronts.apply(stored("b", 1, 10));
    assert!(fronts.held.is_empty(), "no worker asked for it");
    fronts.apply(stored("a", 2, 3 << 20));
    assert_eq!(fronts.held_bytes, EVENT_BYTES + (6 << 20));
    fronts.apply(FrontChange::Forgotten("a".into()));
    assert_eq!((fronts.held_bytes, fronts.held.len()), (0, 0));
    assert!(fronts.load("a", DeliveryId(2)).is_none());
}

#[test]
fn small_body_leaves_its_buffer() {
    let mut fronts = fronts(&["a"]);
    let buffer = Bytes::from(vec![7; 60_000]);
    let mut event = held("a", 0, 0);
    event.event.payload.as_mut().unwrap().body = buffer.slice(..100);
    fronts.apply(FrontChange::Stored(DeliveryId(1), event));
    assert!(buffer.is_unique());
    let loaded = fronts.load("a", DeliveryId(1)).unwrap();
    assert_eq!(loaded.event.payload.unwrap().body, BODY[..100]);
}

type EventsRead = Vec<(DeliveryId, Option<HeldEvent>)>;

/// The pending events as the file has them.
#[derive(Debug, Default)]
struct File {
    pending: BTreeMap<i64, Row>,
    /// The reads ahead that have not ended, with what they read.
    reads: Vec<(u64, EventsRead)>,
    now: u64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    route: usize,
    due: u64,
    changes: u32,
    bytes: usize,
}

#[derive(Debug, Clone)]
enum Step {
    Store {
        route: usize,
        delay: u64,
        bytes: usize,
    },
    /// An attempt or a redelivery: the event ends, or is due at another time.
    Change {
        event: prop::sample::Index,
        due: Option<u64>,
    },
    Move {
        from: usize,
        to: usize,
    },
    /// A pause or a removal.
    Forget(usize),
    Reopen,
    Read {
        route: usize,
        max: usize,
    },
    Load(prop::sample::Index),
    BeginReading(prop::sample::Index),
    EndReading(prop::sample::Index),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (route, index) = (|| 0..ROUTES.len(), any::<prop::sample::Index>);
    let bytes = prop_oneof![0_usize..2_000, 60_000_usize..70_000, Just(5 << 20)];
    let delay = prop_oneof![3 => Just(0), 1 => 0_u64..50];
    prop_oneof![
        8 => (route(), delay, bytes)
            .prop_map(|(route, delay, bytes)| Step::Store { route, delay, bytes }),
        6 => (index(), prop::option::of(0_u64..100))
            .prop_map(|(event, due)| Step::Change { event, due }),
        1 => (route(), route()).prop_map(|(from, to)| Step::Move { from, to }),
        1 => route().prop_map(Step::Forget),
        1 => Just(Step::Reopen),
        5 => (route(), 1_usize..6).prop_map(|(route, max)| Step::Read { route, max }),
        6 => index().prop_map(Step::Load),
        4 => index().prop_map(Step::BeginReading),
        4 => index().prop_map(Step::EndReading),
        2 => (0_u64..30).prop_map(Step::Wait),
    ]
}

impl File {
    /// Returns a route's places in order.
    fn places(&self, route: usize) -> Vec<Place> {
        let of_route = self.pending.iter().filter(|(_, row)| row.route == route);
        let places = of_route.map(|(id, row)| (Uptime(row.due), DeliveryId(*id)));
        let mut places: Vec<_> = places.collect();
        places.sort_unstable();
        places
    }

    fn choose(&self, index: prop::sample::Index) -> Option<(i64, Row)> {
        let rows: Vec<_> = self.pending.iter().map(|(id, row)| (*id, *row)).collect();
        (!rows.is_empty()).then(|| *index.get(&rows))
    }

    fn row(&self, id: DeliveryId) -> Option<HeldEvent> {
        let row = self.pending.get(&id.0)?;
        Some(held(ROUTES[row.route], row.changes, row.bytes))
    }

    fn store(&mut self, fronts: &mut Fronts, id: i64, row: Row) {
        self.pending.insert(id, row);
        fronts.apply(FrontChange::Placed {
            route: ROUTES[row.route].into(),
            before: None,
            after: Some(((Uptime(row.due), DeliveryId(id)), 1)),
        });
        fronts.apply(stored(ROUTES[row.route], id, row.bytes));
    }

    fn change(&mut self, fronts: &mut Fronts, id: i64, due: Option<u64>) {
        let row = self.pending.remove(&id).unwrap();
        let place = |due| (Uptime(due), DeliveryId(id));
        fronts.apply(FrontChange::Placed {
            route: ROUTES[row.route].into(),
            before: Some(place(row.due)),
            after: due.map(|due| (place(due), 1)),
        });
        if let Some(due) = due {
            let changes = row.changes + 1;
            self.pending.insert(
                id,
                Row {
                    due,
                    changes,
                    ..row
                },
            );
        }
    }

    fn move_all(&mut self, fronts: &mut Fronts, from: usize, to: usize) {
        for row in self.pending.values_mut().filter(|row| row.route == from) {
            row.route = to;
            row.due = row.due.min(self.now);
            row.changes += 1;
        }
        for route in [from, to] {
            fronts.apply(FrontChange::Forgotten(ROUTES[route].into()));
        }
    }

    fn read(&self, fronts: &mut Fronts, route: usize, max: usize) {
        let places = self.places(route);
        fronts.apply(FrontChange::Read {
            route: ROUTES[route].into(),
            read: FirstEvents {
                events: places.iter().take(max).map(|place| (*place, 1)).collect(),
                end: places.get(max).copied(),
                max,
            },
        });
        let order = &fronts.routes[ROUTES[route]].order;
        let due = order.due_events(Uptime(self.now), max);
        assert!(due.is_some(), "what was just read is known");
    }

    fn apply(&mut self, fronts: &mut Fronts, step: &Step, id: i64) {
        match step {
            Step::Store {
                route,
                delay,
                bytes,
            } => {
                let row = Row {
                    route: *route,
                    due: self.now + delay,
                    changes: 0,
                    bytes: *bytes,
                };
                self.store(fronts, id, row);
            }
            Step::Change { event, due } => {
                if let Some((id, _)) = self.choose(*event) {
                    self.change(fronts, id, *due);
                }
            }
            Step::Move { from, to } => self.move_all(fronts, *from, *to),
            Step::Forget(route) => fronts.forget(ROUTES[*route]),
            Step::Reopen => fronts.clear(),
            Step::Read { route, max } => self.read(fronts, *route, *max),
            Step::Load(event) => {
                if let Some((id, row)) = self.choose(*event)
                    && let Some(held) = fronts.load(ROUTES[row.route], DeliveryId(id))
                {
                    assert_eq!(held.event.history.attempts, row.changes, "it is outdated");
                    assert!(fronts.load(ROUTES[row.route], DeliveryId(id)).is_none());
                }
            }
            Step::BeginReading(event) => {
                if let Some((id, row)) = self.choose(*event) {
                    let route = ROUTES[row.route];
                    let now = Uptime(self.now);
                    let (number, ids) = fronts.begin_reading(route, DeliveryId(id), now);
                    let read = ids.into_iter().map(|id| (id, self.row(id))).collect();
                    self.reads.push((number, read));
                }
            }
            Step::EndReading(read) => {
                if !self.reads.is_empty() {
                    let (number, read) = self.reads.remove(read.index(self.reads.len()));
                    fronts.end_reading(number, read);
                }
            }
            Step::Wait(time) => self.now += time,
        }
    }

    /// Asserts that what is known of a route's due events is what the file has.
    fn assert_agrees(&self, fronts: &Fronts, route: usize, rows: usize) {
        let now = Uptime(self.now);
        let front = fronts.routes.get(ROUTES[route]);
        let Some(known) = front.and_then(|front| front.order.due_events(now, rows)) else {
            return;
        };
        let places = self.places(route);
        let (due, later) = places.split_at(places.partition_point(|(due, _)| *due <= now));
        let expected: Vec<_> = due.iter().take(rows).map(|(_, id)| *id).collect();
        let events: Vec<_> = known.events.iter().map(|event| event.id).collect();
        assert_eq!(events, expected);
        assert_eq!(known.is_complete, due.len() < rows);
        if let Some((next, _)) = later.first() {
            let known = known.next_in.expect("the next event is not forgotten");
            assert!(known <= next.since(now), "the next event is not late");
        }
    }
}

proptest! {
    #[test]
    fn fronts_agree_with_the_file(
        steps in prop::collection::vec(step(), 1..200), rows in 1_usize..6
    ) {
        let (mut file, mut fronts) = (File::default(), Fronts::default());
        for (step, id) in steps.iter().zip(1..) {
            file.apply(&mut fronts, step, id);
            for route in 0..ROUTES.len() {
                file.assert_agrees(&fronts, route, rows);
            }
            let held: usize = fronts.held.values().map(HeldEvent::bytes).sum();
            let by_route: usize = fronts.routes.values().map(|front| front.held_bytes).sum();
            prop_assert_eq!((held, by_route), (fronts.held_bytes, fronts.held_bytes));
            prop_assert!(held <= HELD_BYTES_MAX);
        }
    }
}

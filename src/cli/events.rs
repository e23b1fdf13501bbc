//! `hookstile events`: shows and follows deliveries, through the admin listener or from the store's
//! files, and redelivers or forgets events.

pub(super) mod aliases {
    //! The arguments of the commands that have another name at the top level, too.

    pub(in crate::cli) use super::redeliver::Args as Redeliver;
    pub(in crate::cli) use super::tail::Args as Tail;
}

mod forget;
mod list;
mod redeliver;
mod selection;
mod show;
mod tail;

use std::process::ExitCode;

use super::admin::{AdminClient, CommandError, GatewayArgs, one_line};
use crate::admin::DeliveryPage;
use crate::admin::shape::{Deliveries, Delivery, OneDelivery, Problem, route_of, webhook_id};
use crate::config::{self, StoreFolder};
use crate::store::{DeliveryFilter, DeliveryId, OfflineStore, OpenError};

/// Show and follow events and dead letters; redeliver or forget events
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    #[command(alias = "ls")]
    List(list::Args),
    #[command(aliases = ["get", "describe", "inspect", "view"])]
    Show(show::Args),
    #[command(aliases = ["follow", "watch"])]
    Tail(tail::Args),
    #[command(aliases = ["replay", "retry", "resend"])]
    Redeliver(redeliver::Args),
    Forget(forget::Args),
}

/// The arguments that select where deliveries are read from.
#[derive(Debug, clap::Args)]
struct DeliverySourceArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Read the store's files directly; only while no gateway runs
    #[arg(long, conflicts_with = "admin")]
    offline: bool,
}

/// The source that deliveries are read from.
enum DeliverySource {
    Admin(AdminClient),
    Store(OfflineStore),
}

pub(super) fn run(command: &Command) -> ExitCode {
    let (result, json) = match command {
        Command::List(args) => (list::run(args), args.json),
        Command::Show(args) => (show::run(args), args.json),
        Command::Tail(args) => (tail::run(args), args.json),
        Command::Redeliver(args) => (redeliver::run(args), args.json),
        Command::Forget(args) => (forget::run(args), args.json),
    };
    result.unwrap_or_else(|error| error.exit_with(json))
}

impl DeliverySourceArgs {
    fn connect(&self) -> Result<DeliverySource, CommandError> {
        if !self.offline {
            return self.gateway.admin().map(DeliverySource::Admin);
        }
        let config = self.gateway.configuration().ok_or_else(|| {
            CommandError::Usage(
                "--offline requires the configuration with the store's path: --config FILE".into(),
            )
        })?;
        let env = |name: &str| std::env::var(name).ok();
        let folder = config::store_folder(&config, &env)
            .map_err(|report| CommandError::Configuration(Box::new(report)))?;
        let StoreFolder::Embedded(folder) = folder else {
            return Err(CommandError::Usage(
                "the store is in PostgreSQL: query a running gateway, without --offline".into(),
            ));
        };
        OfflineStore::open(&folder)
            .map(DeliverySource::Store)
            .map_err(store_error)
    }
}

impl DeliverySource {
    /// Returns up to `filter.limit` deliveries, the newest first.
    fn page(&self, filter: &DeliveryFilter) -> Result<Deliveries, CommandError> {
        match self {
            Self::Admin(admin) => admin.deliveries_page(filter),
            Self::Store(store) => {
                let one_more = DeliveryFilter {
                    limit: filter.limit + 1,
                    ..filter.clone()
                };
                let total = store.count_deliveries(filter).map_err(store_error)?;
                Ok(DeliveryPage::new(
                    store.deliveries(&one_more).map_err(store_error)?,
                    filter.limit,
                    total,
                )
                .into())
            }
        }
    }

    /// Returns the delivery that `id` names; see [`Self::resolve`].
    fn delivery(&self, id: &str, route: Option<&str>) -> Result<OneDelivery, CommandError> {
        self.resolve(id, route, |id| match self {
            Self::Admin(admin) => admin.get(&format!("/deliveries/{id}"), &[]),
            Self::Store(store) => match store.delivery(id).map_err(store_error)? {
                Some(view) => Ok(OneDelivery {
                    success: true,
                    delivery: Delivery::whole(view),
                }),
                None => Err(CommandError::Rejected(unknown(&id.to_string()).into())),
            },
        })
    }

    /// Runs `act` on the delivery that `id` names: by its own ID, or by its event's. An event is
    /// found by the newest delivery of it, and must be on one route only, or on `route`.
    fn resolve<T>(
        &self,
        id: &str,
        route: Option<&str>,
        act: impl Fn(DeliveryId) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        if let Some(delivery) = delivery_id(id) {
            match act(delivery) {
                Err(CommandError::Rejected(problem)) if problem.code == UNKNOWN_DELIVERY => {}
                done => return done,
            }
        }
        match &self.newest_of_event(id, route)?[..] {
            [] => Err(CommandError::Rejected(unknown(id).into())),
            [one] => act(parsed_id(one)?),
            several => Err(CommandError::Rejected(ambiguous(id, several).into())),
        }
    }

    /// Returns the newest delivery of an event on each route, or on `route` alone.
    fn newest_of_event(
        &self,
        event_id: &str,
        route: Option<&str>,
    ) -> Result<Vec<Delivery<u32>>, CommandError> {
        let filter = DeliveryFilter {
            route: route.map(Into::into),
            event_id: Some(event_id.into()),
            limit: PAGE_SIZE,
            ..DeliveryFilter::default()
        };
        let mut newest: Vec<Delivery<u32>> = Vec::new();
        for delivery in self.page(&filter)?.deliveries {
            let is_known = |other: &Delivery<u32>| other.webhook_id == delivery.webhook_id;
            if !newest.iter().any(is_known) {
                newest.push(delivery);
            }
        }
        Ok(newest)
    }
}

impl AdminClient {
    /// Returns up to `filter.limit` deliveries, the newest first.
    fn deliveries_page(&self, filter: &DeliveryFilter) -> Result<Deliveries, CommandError> {
        let mut query = vec![
            ("limit", filter.limit.to_string()),
            ("event_data", filter.with_bodies.to_string()),
        ];
        let optional = [
            ("webhook_id", filter.route.as_deref().map(webhook_id)),
            ("status", filter.state.map(|state| state.as_str().into())),
            ("event_type", filter.event_type.clone()),
            ("event_id", filter.event_id.clone()),
            ("since", filter.since.map(|at| at.to_string())),
            ("until", filter.until.map(|at| at.to_string())),
            ("cursor", filter.before.map(|before| before.to_string())),
        ];
        query.extend(
            optional
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        self.get("/deliveries", &query)
    }
}

/// Converts the error of a store that cannot be opened or read.
fn store_error(error: OpenError) -> CommandError {
    CommandError::Failed(match error {
        OpenError::InUse { folder, holder } => {
            format!(
                "the store in {folder} is in use by {holder}: query the running gateway, without \
                 --offline"
            )
        }
        error => error.to_string(),
    })
}

const UNKNOWN_DELIVERY: &str = "unknown_delivery";

/// Parses the ID of a delivery. A number alone may be an event's ID.
fn delivery_id(text: &str) -> Option<DeliveryId> {
    text.strip_prefix("del_")?.parse().ok().map(DeliveryId)
}

/// Returns the ID of a delivery in a response.
fn parsed_id(delivery: &Delivery<u32>) -> Result<DeliveryId, CommandError> {
    delivery_id(&delivery.id)
        .ok_or_else(|| CommandError::Failed("the response holds an invalid delivery ID".into()))
}

/// Returns the problem that an ID names neither a delivery nor an event.
fn unknown(id: &str) -> Problem {
    Problem {
        code: UNKNOWN_DELIVERY.into(),
        detail: format!("There is no delivery {id}, nor any of an event with this ID."),
        ..Problem::default()
    }
}

/// Returns the problem that an event ID names deliveries of several routes.
fn ambiguous(id: &str, deliveries: &[Delivery<u32>]) -> Problem {
    let shown = deliveries.iter().map(|delivery| {
        let route = route_of(&delivery.webhook_id).unwrap_or(&delivery.webhook_id);
        format!("{} ({route})", delivery.id)
    });
    let shown: Vec<_> = shown.collect();
    Problem {
        code: "ambiguous_event".into(),
        detail: format!(
            "Several routes have the event {id}: {}. Give one of these IDs, or --route.",
            shown.join(", ")
        ),
        ..Problem::default()
    }
}

/// Deliveries per request.
const PAGE_SIZE: usize = 100;

/// Returns the cursor of the next page, if there is one.
fn next_cursor(page: &Deliveries) -> Result<Option<DeliveryId>, CommandError> {
    let cursor = page.next_cursor.as_deref().filter(|_| page.has_more);
    cursor
        .map(str::parse)
        .transpose()
        .map_err(|_| CommandError::Failed("the response holds an invalid cursor".into()))
}

//! `hookstile events`: looks at deliveries, through the admin listener or in the store itself, and has events delivered
//! again or forgotten.

mod forget;
mod list;
mod redeliver;
mod selection;
pub(super) mod show;

use std::process::ExitCode;

use super::admin::{self, Admin, Failure, Gateway};
use crate::admin::DeliveryPage;
use crate::admin::shape::{Deliveries, Delivery, OneDelivery, Problem, webhook_id};
use crate::store::{DeliveryFilter, DeliveryId, OfflineStore, OpenError};

/// Look at deliveries and dead letters, and have events delivered again or forgotten.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    List(list::Args),
    Show(show::Args),
    Redeliver(redeliver::Args),
    Forget(forget::Args),
}

/// Where to look.
#[derive(Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    gateway: Gateway,
    /// Look at the store itself, while no gateway runs
    #[arg(long, conflicts_with = "admin")]
    offline: bool,
}

/// Where deliveries are looked up.
enum Source {
    Admin(Admin),
    Store(OfflineStore),
}

pub(super) fn run(command: &Command) -> ExitCode {
    let ended = match command {
        Command::List(args) => list::run(args),
        Command::Show(args) => show::run(args),
        Command::Redeliver(args) => redeliver::run(args),
        Command::Forget(args) => forget::run(args),
    };
    ended.unwrap_or_else(Failure::exit)
}

impl Place {
    fn open(&self) -> Result<Source, Failure> {
        if !self.offline {
            return self.gateway.admin().map(Source::Admin);
        }
        let config = self.gateway.configuration().ok_or_else(|| {
            Failure::Usage(
                "--offline needs the configuration that says where the store is: --config FILE"
                    .into(),
            )
        })?;
        let folder = admin::whereabouts(&config, false)?.store.ok_or_else(|| {
            Failure::Usage(
                "the configuration keeps events in PostgreSQL: ask any gateway that runs, without --offline".into(),
            )
        })?;
        OfflineStore::open(&folder)
            .map(Source::Store)
            .map_err(failed)
    }
}

impl Source {
    /// Up to `filter.limit` deliveries, the newest first.
    fn page(&self, filter: &DeliveryFilter) -> Result<Deliveries, Failure> {
        match self {
            Self::Admin(admin) => admin.page(filter),
            Self::Store(store) => {
                let one_more = DeliveryFilter {
                    limit: filter.limit + 1,
                    ..filter.clone()
                };
                let total = store.count_deliveries(filter).map_err(failed)?;
                Ok(DeliveryPage::new(
                    store.deliveries(&one_more).map_err(failed)?,
                    filter.limit,
                    total,
                )
                .into())
            }
        }
    }

    fn delivery(&self, id: &str) -> Result<OneDelivery, Failure> {
        let id = delivery_id(id).map_err(Failure::Refused)?;
        match self {
            Self::Admin(admin) => admin.get(&format!("/deliveries/{id}"), &[]),
            Self::Store(store) => match store.delivery(id).map_err(failed)? {
                Some(view) => Ok(OneDelivery {
                    success: true,
                    delivery: Delivery::whole(view),
                }),
                None => Err(Failure::Refused(unknown(&id.to_string()).into())),
            },
        }
    }
}

impl Admin {
    /// Up to `filter.limit` deliveries, the newest first.
    pub(super) fn page(&self, filter: &DeliveryFilter) -> Result<Deliveries, Failure> {
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

/// A store that can't be opened or read.
fn failed(error: OpenError) -> Failure {
    Failure::Failed(match error {
        OpenError::Held { folder, holder } => {
            format!(
                "the store in {folder} is in use by {holder}; ask the gateway that runs, without --offline"
            )
        }
        error => error.to_string(),
    })
}

fn delivery_id(text: &str) -> Result<DeliveryId, Box<Problem>> {
    text.parse().map_err(|_| unknown(text).into())
}

/// As the admin listener says it.
fn unknown(id: &str) -> Problem {
    let detail = format!("There is no delivery {id}.");
    Problem {
        code: "unknown_delivery".into(),
        detail,
        ..Problem::default()
    }
}

/// Deliveries that are asked for at once.
pub(super) const PAGE: usize = 100;

/// Where the next page begins.
pub(super) fn next(page: &Deliveries) -> Result<Option<DeliveryId>, Failure> {
    let cursor = page.next_cursor.as_deref().filter(|_| page.has_more);
    cursor
        .map(str::parse)
        .transpose()
        .map_err(|_| Failure::Failed("the answer's cursor is not one of ours".into()))
}

/// A document on one line. JSON has line feeds between its tokens only, where a space does as well.
pub(super) fn one_line(document: &impl serde::Serialize) -> Result<String, Failure> {
    let text =
        serde_json::to_string(document).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(text.replace(['\n', '\r'], " "))
}

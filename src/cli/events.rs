//! `hookstile events`: shows deliveries, through the admin listener or from the store's files, and
//! redelivers or forgets events.

mod forget;
mod list;
mod redeliver;
mod selection;
pub(super) mod show;

use std::process::ExitCode;

use super::admin::{self, AdminClient, CommandError, GatewayArgs};
use super::terminal;
use crate::admin::DeliveryPage;
use crate::admin::shape::{Deliveries, Delivery, OneDelivery, Problem, webhook_id};
use crate::store::{DeliveryFilter, DeliveryId, OfflineStore, OpenError};

/// Show deliveries and dead letters; redeliver or forget events
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    List(list::Args),
    Show(show::Args),
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
    let result = match command {
        Command::List(args) => list::run(args),
        Command::Show(args) => show::run(args),
        Command::Redeliver(args) => redeliver::run(args),
        Command::Forget(args) => forget::run(args),
    };
    result.unwrap_or_else(CommandError::exit)
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
        let folder = admin::admin_endpoint(&config, false)?
            .store
            .ok_or_else(|| {
                CommandError::Usage(
                    "the store is in PostgreSQL: query a running gateway, without --offline".into(),
                )
            })?;
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

    fn delivery(&self, id: &str) -> Result<OneDelivery, CommandError> {
        let id = delivery_id(id).map_err(CommandError::Rejected)?;
        match self {
            Self::Admin(admin) => admin.get(&format!("/deliveries/{id}"), &[]),
            Self::Store(store) => match store.delivery(id).map_err(store_error)? {
                Some(view) => Ok(OneDelivery {
                    success: true,
                    delivery: Delivery::whole(view),
                }),
                None => Err(CommandError::Rejected(
                    unknown_delivery(&id.to_string()).into(),
                )),
            },
        }
    }
}

impl AdminClient {
    /// Returns up to `filter.limit` deliveries, the newest first.
    pub(super) fn deliveries_page(
        &self,
        filter: &DeliveryFilter,
    ) -> Result<Deliveries, CommandError> {
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

fn delivery_id(text: &str) -> Result<DeliveryId, Box<Problem>> {
    text.parse().map_err(|_| unknown_delivery(text).into())
}

/// Returns the problem that the admin listener reports for an unknown delivery.
fn unknown_delivery(id: &str) -> Problem {
    let detail = format!("There is no delivery {id}.");
    Problem {
        code: "unknown_delivery".into(),
        detail,
        ..Problem::default()
    }
}

/// Deliveries per request.
pub(super) const PAGE_SIZE: usize = 100;

/// Returns the cursor of the next page, if there is one.
pub(super) fn next_cursor(page: &Deliveries) -> Result<Option<DeliveryId>, CommandError> {
    let cursor = page.next_cursor.as_deref().filter(|_| page.has_more);
    cursor
        .map(str::parse)
        .transpose()
        .map_err(|_| CommandError::Failed("the response holds an invalid cursor".into()))
}

/// Writes a document on one line. JSON has line feeds only between its tokens, where a space means
/// the same.
pub(super) fn one_line(document: &impl serde::Serialize) -> Result<String, CommandError> {
    let text =
        serde_json::to_string(document).map_err(|error| CommandError::Failed(error.to_string()))?;
    Ok(terminal::escape_json(&text))
}

//! `hookstile move-store`: moves an embedded store into the configured PostgreSQL database.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::admin::CommandError;
use super::config_file::ConfigArgs;
use super::{check, terminal};
use crate::config;
use crate::metrics::Metrics;
use crate::store::{self, MoveSummary, Settings};

/// Move an embedded store into the configured PostgreSQL database
///
/// Moves everything: event IDs, stored events, delivery records, webhooks made over the API, and
/// paused routes. No gateway may use either store meanwhile, and the database must hold no events.
/// Afterwards the folder is renamed to FOLDER.moved; keep it as a backup or delete it. Exit status:
/// 0 if the store was moved; 1 if not, with both stores unchanged; 78 if the configuration is
/// invalid or has no `store.postgres`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  systemctl stop hookstile
  hookstile move-store --from /var/lib/hookstile -c /etc/hookstile/hookstile.yaml
  systemctl start hookstile")]
pub struct Args {
    /// Folder of the embedded store, the former `store.path`
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON document: what was moved
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let path = args.config.path();
    let store = match config::store(&path, &env) {
        Ok(store) => store,
        Err(report) => return CommandError::Configuration(report.into()).exit_with(args.json),
    };
    let Settings::Shared(to) = store else {
        return refuse_embedded(&path, args.json);
    };
    let moved = move_store(&args.from, *to)
        .map_err(|error| CommandError::Failed(format!("not moved: {error}")));
    let printed = moved.and_then(|moved| print(&moved, args.json));
    printed.map_or_else(|error| error.exit_with(args.json), |()| ExitCode::SUCCESS)
}

/// Reports a configuration that is valid, but names no database to move to.
fn refuse_embedded(path: &Path, json: bool) -> ExitCode {
    let detail = format!(
        "{}: the configuration has no `store.postgres` to move to",
        path.display()
    );
    if json {
        let document = json!({
            "success": false,
            "code": "invalid_configuration",
            "detail": detail,
        });
        let _ = terminal::print(&terminal::json_line(&document));
    }
    terminal::print_message(&detail);
    ExitCode::from(check::BAD_CONFIGURATION)
}

fn move_store(
    from: &Path,
    to: store::SharedSettings,
) -> Result<MoveSummary, Box<dyn std::error::Error>> {
    let metrics = Metrics::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(store::move_into_shared(from, to, metrics.store().clone()))?)
}

fn print(moved: &MoveSummary, json: bool) -> Result<(), CommandError> {
    if json {
        let document = json!({
            "success": true,
            "event_ids": moved.ids,
            "deliveries": moved.deliveries,
            "webhooks": moved.webhooks,
            "folder": moved.folder.to_string_lossy(),
        });
        terminal::print(&terminal::json_line(&document))?;
        return Ok(());
    }
    terminal::print_message(&format!(
        "moved {}, {} and {}; the folder is now {}",
        check::plural(moved.ids, "ID"),
        if moved.deliveries == 1 {
            "1 delivery".to_owned()
        } else {
            format!("{} deliveries", moved.deliveries)
        },
        check::plural(moved.webhooks, "webhook"),
        moved.folder.display()
    ));
    Ok(())
}

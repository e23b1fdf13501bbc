//! `hookstile move-store`: moves an embedded store into the configured PostgreSQL database.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::config_file::ConfigArgs;
use super::{FAILED, check, terminal};
use crate::config;
use crate::metrics::Metrics;
use crate::store::{self, Settings};

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
}

pub(super) fn run(args: &Args) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let path = args.config.path();
    let store = match config::store(&path, &env) {
        Ok(store) => store,
        Err(report) => {
            check::print(&report);
            return ExitCode::from(check::BAD_CONFIGURATION);
        }
    };
    let Settings::Shared(to) = store else {
        terminal::print_message(&format!(
            "{}: the configuration has no `store.postgres` to move to",
            path.display()
        ));
        return ExitCode::from(check::BAD_CONFIGURATION);
    };
    match move_store(&args.from, *to) {
        Ok(summary) => {
            terminal::print_message(&summary);
            ExitCode::SUCCESS
        }
        Err(error) => {
            terminal::print_message(&format!("not moved: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

fn move_store(
    from: &Path,
    to: store::SharedSettings,
) -> Result<String, Box<dyn std::error::Error>> {
    let metrics = Metrics::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let moved = runtime.block_on(store::move_into_shared(from, to, metrics.store().clone()))?;
    Ok(format!(
        "moved {}, {} and {}; the folder is now {}",
        check::plural(moved.ids, "ID"),
        if moved.deliveries == 1 {
            "1 delivery".to_owned()
        } else {
            format!("{} deliveries", moved.deliveries)
        },
        check::plural(moved.webhooks, "webhook"),
        moved.folder.display()
    ))
}

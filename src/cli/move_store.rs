//! `hookstile move-store`: moves an embedded store into the PostgreSQL that the configuration names.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{FAILED, check, terminal};
use crate::config;
use crate::metrics::Metrics;
use crate::store::{self, Settings};

/// Move an embedded store into the PostgreSQL that the configuration names
///
/// Everything moves: remembered IDs, stored events, records of deliveries, webhooks of the API and pauses. No gateway may run on either, and the database must hold no events. Afterwards the folder is called FOLDER.moved, and is of no more use than a backup. Exit status: 0 when it was moved, 1 when not (both are as they were), 78 when FILE is not valid or keeps its events in no PostgreSQL.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  systemctl stop hookstile
  hookstile move-store --from /var/lib/hookstile --config /etc/hookstile/hookstile.yaml
  systemctl start hookstile")]
pub struct Args {
    /// The embedded store's folder: what `store.path` was
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// The configuration, with `store.postgres`
    #[arg(long, short, value_name = "FILE", default_value = "hookstile.yaml")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let store = match config::store(&args.config, &env) {
        Ok(store) => store,
        Err(report) => {
            check::print(&report, false);
            return ExitCode::from(check::BAD_CONFIGURATION);
        }
    };
    let Settings::Shared(to) = store else {
        terminal::tell(&format!(
            "{}: `store` names no `postgres` to move to",
            args.config.display()
        ));
        return ExitCode::from(check::BAD_CONFIGURATION);
    };
    match moved(args, *to) {
        Ok(told) => {
            terminal::tell(&told);
            ExitCode::SUCCESS
        }
        Err(error) => {
            terminal::tell(&format!("not moved: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

fn moved(args: &Args, to: store::SharedSettings) -> Result<String, Box<dyn std::error::Error>> {
    let metrics = Metrics::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let moved = runtime.block_on(store::move_into_shared(
        &args.from,
        to,
        metrics.store().clone(),
    ))?;
    Ok(format!(
        "moved {}, {} and {}; the folder is {} now",
        check::counted(moved.ids, "ID"),
        if moved.deliveries == 1 {
            "1 delivery".to_owned()
        } else {
            format!("{} deliveries", moved.deliveries)
        },
        check::counted(moved.webhooks, "webhook"),
        moved.folder.display()
    ))
}

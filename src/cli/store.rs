//! `hookstile store`: checks the store; backs up and restores the embedded one.

mod shared_check;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::admin::CommandError;
use super::check::plural;
use super::config_file::ConfigArgs;
use super::{FAILED, terminal};
use crate::admin::shape::Problem;
use crate::config::{self, STANDARD_INPUT, StoreFolder};
use crate::store::{
    self, BackupError, CheckedRoute, OpenError, RestoreError, StoreCheck, StoreFault, StoreProblem,
};

/// Check the store; back up and restore the embedded one
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    #[command(aliases = ["verify", "fsck"])]
    Check(CheckArgs),
    #[command(aliases = ["dump", "save"])]
    Backup(BackupArgs),
    Restore(RestoreArgs),
}

/// Check a store or a backup, and change nothing
///
/// The files of an embedded store are checked while no gateway uses them, a store in PostgreSQL while
/// gateways run: it is read a table at a time, with a minute for each relation between rows.
///
/// Reads the whole database: every relation that the gateway relies on, and of files also their
/// structure and the commit log. Prints what the store holds, each problem with what to do, and `ok` if there is none.
/// Exit status: 0 if there is no problem; 1 if there is one, or if the store cannot be checked; 78 if
/// the configuration is invalid.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile store check
  hookstile store check /backup/hookstile.db
  hookstile store check --json | jq -r '.problems[].detail'")]
pub struct CheckArgs {
    /// Folder of a store, or file of a backup [default: the store of the configuration]
    #[arg(value_name = "PATH", conflicts_with = "config")]
    path: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Copy the store to a file, as it is at one moment, while the gateway runs or not
///
/// The copy has everything that was answered before the command began. The gateway goes on
/// meanwhile; the write-ahead log of the store grows by what is written. The file can be read by its
/// owner alone, because payloads are in it, and gets its name when it is whole and on the disk.
/// Exit status: 0 if it was written; 1 if not, and then nothing is left of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile store backup /backup/hookstile.db
  hookstile store backup \"/backup/hookstile-$(date +%F).db\" -c /etc/hookstile/hookstile.yaml")]
pub struct BackupArgs {
    /// File to write; must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Put a backup into the store's place, while the gateway is stopped
///
/// Checks the backup first. What was completed since it was made is forgotten: the retries of their
/// senders are forwarded again. Events that wait in it may have been delivered since, so they are
/// marked as possible duplicates. Exit status: 0 if it was restored; 1 if not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  systemctl stop hookstile
  hookstile store restore /backup/hookstile.db --replace
  systemctl start hookstile")]
pub struct RestoreArgs {
    /// Backup that `hookstile store backup` has written
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Move the files of a store that is there to a folder beside it; none is deleted
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The priority of a backup below that of the gateway: it gets the time that the gateway leaves.
const NICENESS: i32 = 10;

pub(super) fn run(command: &Command) -> ExitCode {
    let (result, json) = match command {
        Command::Check(args) => (check(args), args.json),
        Command::Backup(args) => (back_up(args), args.json),
        Command::Restore(args) => (restore(args), args.json),
    };
    result.unwrap_or_else(|error| error.exit_with(json))
}

fn configured_folder(config: &ConfigArgs) -> Result<StoreFolder, CommandError> {
    let env = |name: &str| std::env::var(name).ok();
    config::store_folder(&config.path(), &env)
        .map_err(|report| CommandError::Configuration(Box::new(report)))
}

/// Returns the folder of the configured store. `instead` says what does the same for PostgreSQL.
fn folder(config: &ConfigArgs, instead: &str) -> Result<PathBuf, CommandError> {
    match configured_folder(config)? {
        StoreFolder::Embedded(folder) => Ok(folder),
        StoreFolder::Shared => Err(CommandError::Usage(format!(
            "the store is in PostgreSQL, not in files of the gateway: {instead} (docs/replicas.md)"
        ))),
    }
}

fn check(args: &CheckArgs) -> Result<ExitCode, CommandError> {
    let path = match &args.path {
        Some(path) => path.clone(),
        None => match configured_folder(&args.config)? {
            StoreFolder::Embedded(folder) => folder,
            StoreFolder::Shared => return shared_check::run(&args.config, args.json),
        },
    };
    let found = store::check(&path).map_err(|error| match error {
        OpenError::InUse { folder, holder } => rejected(
            "store_in_use",
            format!(
                "the store in {folder} is in use by {holder}: stop the gateway first, or check a \
                 backup, which `hookstile store backup FILE` makes while it runs"
            ),
        ),
        error => open_error(&error),
    })?;
    if args.json {
        terminal::print(&terminal::json_line(&Value::Object(document(&found))))?;
    } else {
        print(&found)?;
    }
    if found.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    terminal::print_message(&damage(&found));
    Ok(ExitCode::from(FAILED))
}

fn back_up(args: &BackupArgs) -> Result<ExitCode, CommandError> {
    refuse_standard_stream(
        &args.file,
        "a backup is written in no order, and gets its name when it is whole: give a file",
    )?;
    let from = folder(
        &args.config,
        "make its backup with PostgreSQL's `pg_dump` or `pg_basebackup`",
    )?;
    // A gateway that is busy goes first. Without a lower priority the backup works as well.
    let _ = rustix::process::nice(NICENESS);
    let began = Instant::now();
    let backup = store::back_up(&from, &args.file).map_err(|error| match error {
        BackupError::Open(error) => open_error(&error),
        error => rejected(backup_code(&error), error.to_string()),
    })?;
    let seconds = began.elapsed().as_secs_f64();
    if args.json {
        let document = json!({
            "success": true,
            "file": backup.file.to_string_lossy(),
            "bytes": backup.bytes,
            "event_ids": backup.event_ids,
            "deliveries": backup.deliveries,
            "gateway_running": backup.was_running,
            "seconds": (seconds * 1e3).round() / 1e3,
        });
        terminal::print(&terminal::json_line(&document))?;
    } else {
        let line = format!(
            "{}: {}, {}, {}, in {seconds:.1} s",
            backup.file.display(),
            size(backup.bytes),
            count(backup.event_ids, "event ID", "event IDs"),
            count(backup.deliveries, "delivery", "deliveries"),
        );
        terminal::print(&terminal::visible(&line, false))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn restore(args: &RestoreArgs) -> Result<ExitCode, CommandError> {
    refuse_standard_stream(
        &args.file,
        "a backup is checked before anything is changed: give a file",
    )?;
    let to = folder(
        &args.config,
        "restore its backup with PostgreSQL's `pg_restore` or `psql`",
    )?;
    let restored = match store::restore(&args.file, &to, args.replace) {
        Ok(restored) => restored,
        Err(RestoreError::Damaged(found)) => {
            if args.json {
                terminal::print(&terminal::json_line(&Value::Object(document(&found))))?;
            } else {
                print(&found)?;
            }
            terminal::print_message(&format!("{}; nothing was restored", damage(&found)));
            return Ok(ExitCode::from(FAILED));
        }
        Err(error) => return Err(restore_error(&error)),
    };
    let store = &restored.store;
    if args.json {
        let mut document = document(store);
        let replaced = restored.replaced.as_ref();
        document.insert("folder".into(), path_value(&restored.folder));
        document.insert(
            "replaced".into(),
            replaced.map_or(Value::Null, |folder| path_value(folder)),
        );
        terminal::print(&terminal::json_line(&Value::Object(document)))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(store)?;
    if let Some(replaced) = &restored.replaced {
        let line = format!("the files that were there are in {}", replaced.display());
        terminal::print(&terminal::visible(&line, false))?;
    }
    terminal::print(&format!(
        "restored as of {}: events completed since are forgotten, and their senders' retries are \
         forwarded again; events that wait in it are marked as possible duplicates; events accepted \
         since are not in it",
        time(store.written_at)
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn refuse_standard_stream(file: &Path, reason: &str) -> Result<(), CommandError> {
    if file == Path::new(STANDARD_INPUT) {
        return Err(CommandError::Usage(format!(
            "FILE must not be `-`: {reason}"
        )));
    }
    Ok(())
}

fn rejected(code: &str, detail: String) -> CommandError {
    CommandError::Rejected(Box::new(Problem {
        code: code.to_owned(),
        detail,
        ..Problem::default()
    }))
}

fn open_error(error: &OpenError) -> CommandError {
    let (code, detail) = match error {
        OpenError::InUse { folder, holder } => (
            "store_in_use",
            format!("the store in {folder} is in use by {holder}: stop that process first"),
        ),
        OpenError::Missing { .. } => ("no_store", error.to_string()),
        OpenError::Foreign { .. } | OpenError::Later { .. } => ("foreign_store", error.to_string()),
        OpenError::CutOffRestore { .. } => ("restore_cut_off", error.to_string()),
        OpenError::Database { .. } => (
            "unreadable_store",
            format!(
                "{error}; if it is damaged, restore a backup with `hookstile store restore FILE \
                 --replace`, which keeps these files"
            ),
        ),
        _ => ("failed", error.to_string()),
    };
    rejected(code, detail)
}

fn backup_code(error: &BackupError) -> &'static str {
    match error {
        BackupError::Exists(_) => "file_exists",
        BackupError::InProgress(_) => "backup_in_progress",
        BackupError::NoRoom { .. } => "no_room",
        BackupError::Recovering => "store_recovering",
        BackupError::Damaged(_) => "store_damaged",
        BackupError::Open(_)
        | BackupError::Name
        | BackupError::Write { .. }
        | BackupError::Copy { .. } => "failed",
    }
}

fn restore_error(error: &RestoreError) -> CommandError {
    let code = match error {
        RestoreError::Open(error) => return open_error(error),
        RestoreError::Exists(_) => "store_exists",
        RestoreError::PartOfStore(_) => "no_backup",
        RestoreError::Damaged(_) => "store_damaged",
        RestoreError::Write { .. } | RestoreError::Mark(_) | RestoreError::Move { .. } => "failed",
    };
    rejected(code, error.to_string())
}

fn damage(found: &StoreCheck) -> String {
    format!(
        "{} has {}",
        found.file.display(),
        plural(found.problems.len(), "problem")
    )
}

fn document(found: &StoreCheck) -> Map<String, Value> {
    let mut document = Map::new();
    let is_sound = found.problems.is_empty();
    document.insert("success".into(), is_sound.into());
    if !is_sound {
        document.insert("code".into(), "store_damaged".into());
        document.insert("detail".into(), damage(found).into());
    }
    let rest = json!({
        "file": path_value(&found.file),
        "version": found.version,
        "bytes": found.bytes,
        "free_bytes": found.free_bytes,
        "written_at": found.written_at,
        "event_ids": found.event_ids,
        "webhooks": found.webhooks,
        "routes": routes_json(&found.routes),
        "unapplied_transactions": found.unapplied,
        "interrupted_attempts": found.interrupted,
        "problems": problems_json(&found.problems, StoreFault::advice),
    });
    if let Value::Object(rest) = rest {
        document.extend(rest);
    }
    document
}

fn routes_json(routes: &[CheckedRoute]) -> Value {
    let routes = routes.iter().map(|route| {
        json!({
            "route": route.route,
            "pending": route.pending,
            "dead": route.dead,
            "success": route.success,
            "failed": route.failed,
            "oldest": route.oldest,
        })
    });
    routes.collect()
}

fn problems_json(problems: &[StoreProblem], advice: fn(StoreFault) -> &'static str) -> Value {
    let problems = problems.iter().map(|problem| {
        json!({
            "code": problem.fault.code(),
            "detail": problem.detail,
            "advice": advice(problem.fault),
        })
    });
    problems.collect()
}

fn path_value(path: &Path) -> Value {
    path.to_string_lossy().into()
}

fn print(found: &StoreCheck) -> Result<(), CommandError> {
    let line = format!(
        "{}: version {}, {}, {} of it free, written at {}",
        found.file.display(),
        found.version,
        size(found.bytes),
        size(found.free_bytes),
        time(found.written_at)
    );
    terminal::print(&terminal::visible(&line, false))?;
    print_content(found.event_ids, found.webhooks, &found.routes)?;
    if found.unapplied > 0 {
        terminal::print(&format!(
            "{} of the commit log will be executed at the next start",
            plural(found.unapplied, "transaction")
        ))?;
    }
    if found.interrupted > 0 {
        terminal::print(&format!(
            "{} cut off: the next delivery of each event is marked as a possible duplicate",
            match found.interrupted {
                1 => "1 attempt was".to_owned(),
                attempts => format!("{attempts} attempts were"),
            }
        ))?;
    }
    print_problems(&found.problems, StoreFault::advice)?;
    if found.problems.is_empty() {
        terminal::print("ok")?;
    }
    Ok(())
}

/// Prints what a store holds.
fn print_content(
    event_ids: u64,
    webhooks: u64,
    routes: &[CheckedRoute],
) -> Result<(), CommandError> {
    let webhooks = match webhooks {
        0 => String::new(),
        webhooks => format!(", {}", count(webhooks, "webhook", "webhooks")),
    };
    let event_ids = count(event_ids, "event ID", "event IDs");
    terminal::print(&format!("{event_ids} remembered{webhooks}"))?;
    if routes.is_empty() {
        return Ok(());
    }
    let heading = ["ROUTE", "PENDING", "DEAD", "SUCCESS", "FAILED", "OLDEST"];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(routes.iter().map(|route| {
        [
            route.route.clone(),
            route.pending.to_string(),
            route.dead.to_string(),
            route.success.to_string(),
            route.failed.to_string(),
            time(route.oldest),
        ]
    }));
    terminal::print_table(&rows)?;
    Ok(())
}

fn print_problems(
    problems: &[StoreProblem],
    advice: fn(StoreFault) -> &'static str,
) -> Result<(), CommandError> {
    for problem in problems {
        let line = format!("problem {}: {}", problem.fault.code(), problem.detail);
        terminal::print(&terminal::visible(&line, false))?;
        terminal::print(&format!("  {}", advice(problem.fault)))?;
    }
    Ok(())
}

fn time(at: Option<Timestamp>) -> String {
    terminal::time(at)
}

fn count(count: u64, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// Formats a size with a unit that fits it.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

//! `hookstile store check` for a store in PostgreSQL.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{count, print_content, print_problems, problems_json, rejected, routes_json, size};
use crate::cli::admin::CommandError;
use crate::cli::check::plural;
use crate::cli::config_file::ConfigArgs;
use crate::cli::{FAILED, terminal};
use crate::config;
use crate::metrics::Metrics;
use crate::store::{self, Settings, SharedSettings, SharedStoreCheck, StoreFault};

/// Checks the configured database.
pub(super) fn run(config: &ConfigArgs, as_json: bool) -> Result<ExitCode, CommandError> {
    let env = |name: &str| std::env::var(name).ok();
    let settings = config::store(&config.path(), &env)
        .map_err(|report| CommandError::Configuration(Box::new(report)))?;
    let Settings::Shared(settings) = settings else {
        return Err(CommandError::Failed(
            "the store is not in PostgreSQL".into(),
        ));
    };
    let found = check(&settings)?;
    if as_json {
        terminal::print(&terminal::json_line(&document(&found)))?;
    } else {
        print(&found)?;
    }
    if found.problems.is_empty() && found.unchecked.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    terminal::print_message(&summary(&found));
    Ok(ExitCode::from(FAILED))
}

fn check(settings: &SharedSettings) -> Result<SharedStoreCheck, CommandError> {
    let failed = |error: String| rejected("unreadable_store", error);
    let metrics = Metrics::new().map_err(|error| failed(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    runtime
        .block_on(store::check_shared(settings, metrics.store().clone()))
        .map_err(|error| failed(error.to_string()))
}

fn summary(found: &SharedStoreCheck) -> String {
    let problems = plural(found.problems.len(), "problem");
    match found.unchecked.len() {
        0 => format!("{} has {problems}", found.server),
        unchecked => format!(
            "{} has {problems}, and {} could not be made",
            found.server,
            plural(unchecked, "check")
        ),
    }
}

fn document(found: &SharedStoreCheck) -> Value {
    let mut document = json!({
        "success": found.problems.is_empty() && found.unchecked.is_empty(),
        "server": found.server,
        "version": found.version,
        "bytes": found.bytes,
        "gateways": found.gateways,
        "event_ids": found.event_ids,
        "webhooks": found.webhooks,
        "routes": routes_json(&found.routes),
        "unchecked": found.unchecked,
        "problems": problems_json(&found.problems, StoreFault::advice_for_database),
    });
    let code = match (found.problems.len(), found.unchecked.len()) {
        (0, 0) => return document,
        (0, _) => "check_incomplete",
        _ => "store_damaged",
    };
    document["code"] = code.into();
    document["detail"] = summary(found).into();
    document
}

fn print(found: &SharedStoreCheck) -> Result<(), CommandError> {
    let line = format!(
        "{}: version {}, {}, {} running",
        found.server,
        found.version,
        size(found.bytes),
        count(found.gateways, "gateway", "gateways")
    );
    terminal::print(&terminal::visible(&line, false))?;
    print_content(found.event_ids, found.webhooks, &found.routes)?;
    print_problems(&found.problems, StoreFault::advice_for_database)?;
    for unchecked in &found.unchecked {
        let line = format!("not checked: {unchecked}");
        terminal::print(&terminal::visible(&line, false))?;
    }
    if found.problems.is_empty() && found.unchecked.is_empty() {
        terminal::print("ok")?;
    }
    Ok(())
}

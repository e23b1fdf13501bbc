//! The command that is meant by a word that is no command's name.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use strsim::damerau_levenshtein;

/// Words that people try, each with what to do instead.
const HINTS: &[(&[&str], &str)] = &[
    (
        &[
            "event",
            "delivery",
            "deliveries",
            "messages",
            "queue",
            "ls",
            "list",
        ],
        "to list events, use 'hookstile events list'",
    ),
    (
        &["show", "get", "inspect", "describe"],
        "to show an event, use 'hookstile events show ID'",
    ),
    (
        &["tail", "log", "follow", "watch"],
        "to follow events, use 'hookstile events tail'; the log of the gateway goes to its \
         standard error",
    ),
    (
        &["dead", "dead-letters", "dlq"],
        "to list dead letters, use 'hookstile events list --status dead'",
    ),
    (
        &["redeliver", "resend", "reprocess"],
        "to deliver events again, use 'hookstile events redeliver'",
    ),
    (
        &["forget"],
        "to forget an event ID, use 'hookstile events forget ID'",
    ),
    (
        &["rejected", "rejection", "errors", "failures", "denied"],
        "to list rejected requests, use 'hookstile rejections list'",
    ),
    (
        &["webhooks", "webhook", "route", "endpoints"],
        "to see every route, use 'hookstile status'",
    ),
    (
        &["top", "ps", "health", "info", "stats", "ready"],
        "to see the state of the gateway, use 'hookstile status'",
    ),
    (
        &["dashboard", "ui", "web", "open", "console"],
        "the dashboard is at the URL that 'hookstile status' prints",
    ),
    (
        &["test", "simulate", "emit", "post", "publish"],
        "to send a signed test event, use 'hookstile send'",
    ),
    (
        &["config", "lint", "configtest", "doctor", "configure"],
        "to check a configuration, use 'hookstile check'; to write one, 'hookstile init'",
    ),
    (
        &["new", "generate", "create", "setup", "add"],
        "to write a configuration, use 'hookstile init'",
    ),
    (
        &["up", "daemon", "server", "proxy", "gateway"],
        "to run the gateway, use 'hookstile run'",
    ),
    (
        &["stop", "quit", "kill", "shutdown", "down", "exit"],
        "to stop the gateway, send it SIGTERM",
    ),
    (
        &["restart"],
        "to apply a configuration, use 'hookstile reload'; a service manager restarts the process",
    ),
    (
        &["upgrade", "update"],
        "to replace the binary without losing a request, send the gateway SIGUSR2",
    ),
    (
        &["receive", "receiver", "sink", "echo", "forward"],
        "to print the requests that arrive, use 'hookstile catch'",
    ),
    (
        &["explain", "debug", "diagnose", "why"],
        "to learn why a signature fails, use 'hookstile verify'",
    ),
    (
        &["migrate", "move", "import"],
        "to move the store to PostgreSQL, use 'hookstile move-store'",
    ),
    (
        &["metrics"],
        "the metrics are at /metrics of the admin listener, whose URL 'hookstile status' prints",
    ),
    (
        &["docs", "manual"],
        "to read the manual pages, use 'hookstile man'",
    ),
    (
        &["completion", "autocomplete"],
        "to complete commands in a shell, use 'hookstile completions SHELL'",
    ),
    (
        &["signature", "hmac"],
        "to sign a body, use 'hookstile sign'",
    ),
];

/// Replaces clap's advice for an unknown subcommand, which is the name that looks most alike.
pub(super) fn improve(error: &mut clap::Error, root: &clap::Command) {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return;
    };
    let word = word.to_lowercase();
    let advice = hint(&word).map(str::to_owned).or_else(|| {
        let name = nearest_command(&word, root)?;
        Some(format!("a similar subcommand exists: '{name}'"))
    });
    error.remove(ContextKind::SuggestedSubcommand);
    error.remove(ContextKind::Suggested);
    if let Some(advice) = advice {
        let advice = ContextValue::StyledStrs(vec![advice.into()]);
        error.insert(ContextKind::Suggested, advice);
    }
}

fn hint(word: &str) -> Option<&'static str> {
    HINTS
        .iter()
        .find(|(words, _)| words.contains(&word))
        .map(|(_, hint)| *hint)
}

/// Returns the command whose name is nearest, if it is near enough to be meant.
fn nearest_command(word: &str, root: &clap::Command) -> Option<String> {
    let nested = root
        .get_subcommands()
        .flat_map(|command| {
            command
                .get_subcommands()
                .map(move |nested| (command, nested))
        })
        .map(|(command, nested)| {
            let name = format!("{} {}", command.get_name(), nested.get_name());
            (nested.get_name(), name)
        });
    root.get_subcommands()
        .map(|command| (command.get_name(), command.get_name().to_owned()))
        .chain(nested)
        .map(|(name, shown)| (damerau_levenshtein(word, name), name.len(), shown))
        .filter(|(distance, length, _)| *distance <= word.len().max(*length) / 3)
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, shown)| shown)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn hints_name_commands_that_exist() {
        let mut root = Cli::command();
        root.build();
        for (words, hint) in HINTS {
            for line in hint.split('\'').skip(1).step_by(2) {
                let mut command = &root;
                for word in line.split(' ').skip(1).filter(|word| word.is_ascii()) {
                    if word.starts_with('-') || word.chars().all(|c| c.is_ascii_uppercase()) {
                        break;
                    }
                    command = command
                        .find_subcommand(word)
                        .unwrap_or_else(|| panic!("{line}: {word}"));
                }
            }
            for word in *words {
                assert!(root.find_subcommand(word).is_none(), "{word} is a command");
            }
        }
    }

    #[test]
    fn mistyped_command_is_recognised() {
        let root = Cli::command();
        for (word, expected) in [
            ("evnts", Some("events")),
            ("statsu", Some("status")),
            ("relaod", Some("reload")),
            ("redelivr", Some("events redeliver")),
            ("qwertz", None),
        ] {
            assert_eq!(nearest_command(word, &root).as_deref(), expected, "{word}");
        }
    }
}

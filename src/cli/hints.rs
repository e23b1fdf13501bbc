//! What is meant by a word that is no command's name, or by an option that a command does not have.
//!
//! The words are those of other command lines: kubectl, docker, git, the Stripe CLI and ngrok.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use strsim::damerau_levenshtein;

/// Words that people try, each with what to do instead.
type Hints = &'static [(&'static [&'static str], &'static str)];

/// The words that are tried in place of a command.
const HINTS: Hints = &[
    (
        &["delivery", "deliveries", "messages", "queue", "ls", "list"],
        "to list events, use 'hookstile events list'",
    ),
    (
        &["show", "get", "inspect", "describe", "view"],
        "to show an event, use 'hookstile events show ID'; to list events, 'hookstile events list'",
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
        &["rejected", "errors", "failures", "denied"],
        "to list rejected requests, use 'hookstile rejections list'",
    ),
    (
        &["webhooks", "webhook", "endpoints", "endpoint"],
        "to see every route, use 'hookstile routes list', or 'hookstile status'",
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
        &["test", "simulate", "emit", "post", "publish", "fire"],
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
        &["backup", "dump", "export", "snapshot", "save"],
        "to copy the store to a file, use 'hookstile store backup FILE'",
    ),
    (
        &["restore", "recover"],
        "to put a backup in place of the store, use 'hookstile store restore FILE'",
    ),
    (
        &["fsck", "integrity", "repair"],
        "to check the files of the store, use 'hookstile store check'",
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
    (
        &["disable", "suspend"],
        "to stop the delivery of stored events, use 'hookstile routes pause ROUTE'",
    ),
    (
        &["enable", "unpause", "continue"],
        "to go on with the delivery of stored events, use 'hookstile routes resume ROUTE'",
    ),
    (
        &["http", "tunnel", "expose"],
        "to receive requests on this machine, use 'hookstile catch'; to verify and forward them, \
         'hookstile init' and 'hookstile run'",
    ),
    (
        &["login", "auth", "authtoken", "config-token"],
        "nobody logs in here: set HOOKSTILE_ADMIN_TOKEN for a command, or give the configuration \
         with --config",
    ),
    (
        &["dedup", "ledger", "unblock"],
        "to accept an event ID again, use 'hookstile events forget ID'",
    ),
];

/// The words that are tried after the name of a group of commands.
const NESTED: &[(&str, Hints)] = &[
    (
        "events",
        &[
            (
                &["dead", "dead-letters", "dlq"],
                "to list dead letters, use 'hookstile events list --dead'",
            ),
            (
                &["pending", "queued", "queue", "waiting"],
                "to list the events that wait, use 'hookstile events list --status pending'",
            ),
            (
                &["failed", "failures", "errors"],
                "to list the events that failed, use 'hookstile events list --status failed'",
            ),
            (
                &[
                    "rm", "delete", "remove", "purge", "drop", "discard", "unblock",
                ],
                "to accept an event ID again, use 'hookstile events forget ID'; stored events are \
                 removed as `retain` of their route says",
            ),
            (
                &["search", "find", "filter", "query", "grep"],
                "to find events, use 'hookstile events list' with --event-id, --type, --route or \
                 --since",
            ),
            (
                &["count", "stats", "summary"],
                "to see the counts of every route, use 'hookstile status'",
            ),
            (
                &["send", "create", "test", "trigger", "publish"],
                "to send a signed test event, use 'hookstile send'",
            ),
            (
                &["pause", "stop", "cancel"],
                "to stop the delivery of stored events, use 'hookstile routes pause ROUTE'",
            ),
            (
                &["rejected", "rejections"],
                "to list rejected requests, use 'hookstile rejections list'",
            ),
            (
                &["log", "logs"],
                "to follow events, use 'hookstile events tail'",
            ),
        ],
    ),
    (
        "rejections",
        &[
            (
                &["show", "get", "describe", "inspect", "view", "explain"],
                "to see why requests were rejected, use 'hookstile rejections list'; to fetch one \
                 whole, 'hookstile capture ID'",
            ),
            (
                &["replay", "retry", "resend", "redeliver"],
                "a rejected request is not stored; its sender sends it again",
            ),
            (
                &["log", "logs"],
                "to follow rejected requests, use 'hookstile rejections tail'",
            ),
        ],
    ),
    (
        "routes",
        &[
            (
                &[
                    "show", "get", "describe", "inspect", "view", "status", "stats",
                ],
                "to see every route, use 'hookstile routes list', or 'hookstile status'",
            ),
            (
                &[
                    "add", "create", "new", "edit", "update", "set", "delete", "rm", "remove",
                    "apply",
                ],
                "routes are in the configuration: change it, and use 'hookstile reload'",
            ),
            (
                &["disable", "stop", "suspend", "deactivate", "drain"],
                "to stop the delivery of stored events, use 'hookstile routes pause ROUTE'",
            ),
            (
                &[
                    "enable", "start", "unpause", "continue", "activate", "restart",
                ],
                "to go on with the delivery of stored events, use 'hookstile routes resume ROUTE'",
            ),
            (
                &["send", "trigger", "ping"],
                "to send a signed test event, use 'hookstile routes test ROUTE'",
            ),
            (
                &["events", "deliveries", "logs"],
                "to list the events of a route, use 'hookstile events list --route ROUTE'",
            ),
            (
                &["reload"],
                "to apply a configuration, use 'hookstile reload'",
            ),
        ],
    ),
    (
        "store",
        &[
            (
                &["test", "status", "integrity", "repair", "info", "stats"],
                "to check the files of the store, use 'hookstile store check'",
            ),
            (
                &["export", "copy", "snapshot", "clone", "create"],
                "to copy the store to a file, use 'hookstile store backup FILE'",
            ),
            (
                &["import", "load", "recover", "replace"],
                "to put a backup in place of the store, use 'hookstile store restore FILE'",
            ),
            (
                &["move", "migrate", "convert"],
                "to move the store to PostgreSQL, use 'hookstile move-store'",
            ),
            (
                &["list", "show", "ls", "events", "get"],
                "to read the events of a gateway that is stopped, use 'hookstile events list \
                 --offline'",
            ),
        ],
    ),
];

/// Options that people try, each with the one that the command has for it.
const OPTIONS: &[(&[&str], &str, &str)] = &[
    (
        &["-o", "--output", "--format", "--out"],
        "json",
        "for JSON, use '--json'",
    ),
    (
        &["-f", "--follow", "-w", "--watch"],
        "watch",
        "to show it again and again, use '--watch'",
    ),
    (
        &["-f", "--follow", "-w", "--watch"],
        "limit",
        "to follow the list, use 'tail' in place of 'list'",
    ),
    (
        &["-f", "--file"],
        "config",
        "to name the configuration, use '--config FILE'",
    ),
    (
        &[
            "-n", "--max", "--count", "--last", "--tail", "--head", "--lines", "--size",
        ],
        "limit",
        "for another number of lines, use '--limit N'",
    ),
    (
        &[
            "--url",
            "--host",
            "--server",
            "--address",
            "--endpoint",
            "-s",
            "--gateway",
        ],
        "admin",
        "to name the gateway, use '--admin URL'",
    ),
    (
        &["--token", "--api-key", "--auth", "--password"],
        "admin",
        "set HOOKSTILE_ADMIN_TOKEN for the command: other users of the machine can see arguments",
    ),
    (
        &["--secret", "--key", "--signing-secret"],
        "secret-env",
        "give the secret with '--secret-env VAR' or '--secret-file FILE': other users of the \
         machine can see arguments",
    ),
    (
        &["--id", "--event"],
        "event-id",
        "to choose an event, use '--event-id ID'",
    ),
    (
        &[
            "-r",
            "--webhook",
            "--webhook-id",
            "--endpoint",
            "-n",
            "--namespace",
            "--name",
        ],
        "route",
        "to choose a route, use '--route NAME'",
    ),
    (
        &["--after", "--from", "--newer-than"],
        "since",
        "to choose by time, use '--since TIME', as in '--since 2h'",
    ),
    (
        &["--before", "--to", "--older-than"],
        "until",
        "to choose by time, use '--until TIME', as in '--until 2h'",
    ),
    (
        &["--data", "-d", "--payload", "--data-binary"],
        "body",
        "to give the body, use '--body FILE', or '--body -' for standard input",
    ),
    (
        &["--forward-to", "-F", "--forward"],
        "listen",
        "nothing is forwarded from here; to verify \
      requests and forward them, use 'hookstile init' and 'hookstile run'",
    ),
    (
        &["--port", "-p", "--bind", "--addr"],
        "listen",
        "to listen elsewhere, use '--listen ADDRESS', as in '--listen 127.0.0.1:3000'",
    ),
    (
        &["--port", "-p"],
        "admin",
        "to name another address, use '--admin ADDRESS', as in '--admin 127.0.0.1:9180'",
    ),
    (
        &["--port", "-p", "--listen", "--bind", "--addr"],
        "config",
        "addresses are in the configuration, under `listen` and `admin`",
    ),
    (
        &["--debug", "--log-level", "--verbose"],
        "config",
        "the log is set in the configuration, under `log`",
    ),
    (
        &["--all", "-a", "-A"],
        "dry-run",
        "say which events, with '--dead', '--status', '--route' or '--since'",
    ),
    (
        &["--all", "-a", "-A", "--all-namespaces"],
        "limit",
        "all routes are listed; for more lines, use '--limit N'",
    ),
    (
        &["-v", "--verbose"],
        "version",
        "to print the version, use '--version'",
    ),
];

/// Verbs that mean a list if its plural follows.
const READING: [&str; 5] = ["get", "show", "describe", "inspect", "view"];

/// The endings of the names of configuration files.
const CONFIG_ENDINGS: [&str; 2] = [".yaml", ".yml"];

/// Replaces clap's advice, which is the name that looks most alike, where it is known what is meant.
/// `words` is the command line without the program.
pub(super) fn improve(error: &mut clap::Error, root: &clap::Command, words: &[String]) {
    let advice = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let Some(word) = string(error, ContextKind::InvalidSubcommand) else {
                return;
            };
            error.remove(ContextKind::SuggestedSubcommand);
            error.remove(ContextKind::Suggested);
            command_advice(&word, root, words)
        }
        ErrorKind::UnknownArgument => {
            let Some(argument) = string(error, ContextKind::InvalidArg) else {
                return;
            };
            let advice = argument_advice(&argument, command_of(root, words));
            if advice.is_some() {
                error.remove(ContextKind::SuggestedArg);
            }
            // It would be to put `--` before the argument, which nobody means.
            error.remove(ContextKind::Suggested);
            advice
        }
        _ => None,
    };
    if let Some(advice) = advice {
        let advice = ContextValue::StyledStrs(vec![advice.into()]);
        error.insert(ContextKind::Suggested, advice);
    }
}

/// Returns an error and the advice on it, in one line without colours.
pub(super) fn summary(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let told = text.split("\n\n").take_while(|part| {
        let part = part.trim_start();
        !part.starts_with("Usage:") && !part.starts_with("For more information")
    });
    let lines: Vec<_> = told
        .flat_map(str::lines)
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let line = lines.join(" ").replace(" tip: ", "; ");
    line.trim_start_matches("error: ").to_owned()
}

fn string(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// Returns the command that the words name, as far as they name one.
fn command_of<'c>(root: &'c clap::Command, words: &[String]) -> &'c clap::Command {
    let mut command = root;
    for word in words {
        match command.find_subcommand(word) {
            Some(found) => command = found,
            None if word.starts_with('-') => {}
            None => break,
        }
    }
    command
}

fn command_advice(word: &str, root: &clap::Command, words: &[String]) -> Option<String> {
    let before = words.iter().take_while(|other| *other != word);
    let group = before
        .filter_map(|name| root.find_subcommand(name))
        .find(|command| command.has_subcommands());
    let lower = word.to_lowercase();
    if let Some(group) = group {
        return nested_hint(group.get_name(), &lower)
            .or_else(|| similar(nearest(&lower, names_in(group))));
    }
    verb_first(&lower, root, words)
        .or_else(|| hint(HINTS, &lower).map(str::to_owned))
        .or_else(|| similar(nearest(&lower, all_names(root))))
}

/// Returns the advice for `list events`, and for `get event ID`.
fn verb_first(verb: &str, root: &clap::Command, words: &[String]) -> Option<String> {
    let mut behind = words.iter().skip_while(|word| word.to_lowercase() != verb);
    let noun = behind.nth(1)?.to_lowercase();
    let group = root
        .find_subcommand(&noun)
        .or_else(|| root.find_subcommand(format!("{noun}s")))
        .filter(|command| command.has_subcommands())?;
    let name = group.get_name();
    let is_all = READING.contains(&verb) && name == noun;
    match group.find_subcommand(if is_all { "list" } else { verb }) {
        Some(command) => {
            let command = command.get_name();
            Some(format!("the noun is first: 'hookstile {name} {command}'"))
        }
        None => nested_hint(name, verb),
    }
}

fn argument_advice(argument: &str, command: &clap::Command) -> Option<String> {
    let has = |name: &str| {
        let mut options = command.get_arguments();
        options.any(|option| option.get_long() == Some(name))
    };
    if argument.starts_with('-') {
        let name = argument.split('=').next().unwrap_or(argument);
        let fitting = OPTIONS.iter().find(|(names, option, _)| {
            // The version is an option of the program, not of its commands.
            let has_option =
                has(option) || (*option == "version" && command.get_version().is_some());
            names.contains(&name) && has_option
        });
        return positional(name, command).or_else(|| {
            let (_, _, advice) = fitting?;
            Some((*advice).to_owned())
        });
    }
    if CONFIG_ENDINGS.iter().any(|end| argument.ends_with(end)) && has("config") {
        return Some(format!(
            "to name the configuration, use '--config {argument}'"
        ));
    }
    if ["list", "ls", "tail", "show", "get", "all"].contains(&argument) {
        return Some(format!(
            "this command has no other commands: leave '{argument}' out"
        ));
    }
    if has("request") {
        return Some(format!("to name the file, use '--request {argument}'"));
    }
    has("route").then(|| format!("to choose a route, use '--route {argument}'"))
}

/// Returns the advice for an option that names what stands alone, as in `--id ID`.
fn positional(option: &str, command: &clap::Command) -> Option<String> {
    let meant = match option {
        "--event" | "--event-id" | "--delivery" | "--delivery-id" => "ID".to_owned(),
        "--name" | "--webhook" | "--webhook-id" => "ROUTE".to_owned(),
        other => other.strip_prefix("--")?.to_uppercase(),
    };
    let mut names = command
        .get_positionals()
        .filter_map(|positional| positional.get_value_names())
        .flatten();
    names
        .any(|name| **name == *meant)
        .then(|| format!("give {meant} alone, without '{option}'"))
}

fn nested_hint(group: &str, word: &str) -> Option<String> {
    let (_, hints) = NESTED.iter().find(|(name, _)| *name == group)?;
    hint(hints, word).map(str::to_owned)
}

fn hint(hints: Hints, word: &str) -> Option<&'static str> {
    hints
        .iter()
        .find(|(words, _)| words.contains(&word))
        .map(|(_, hint)| *hint)
}

fn similar(name: Option<String>) -> Option<String> {
    name.map(|name| format!("a similar subcommand exists: '{name}'"))
}

/// Returns the names of the commands of a group, each with what is shown for it.
fn names_in(group: &clap::Command) -> impl Iterator<Item = (&str, String)> {
    group.get_subcommands().map(|nested| {
        let name = nested.get_name();
        (name, format!("{} {name}", group.get_name()))
    })
}

fn all_names(root: &clap::Command) -> impl Iterator<Item = (&str, String)> {
    let own = root.get_subcommands();
    own.map(|command| (command.get_name(), command.get_name().to_owned()))
        .chain(root.get_subcommands().flat_map(names_in))
}

/// Returns the command whose name is nearest, if it is near enough to be meant.
fn nearest<'c>(word: &str, names: impl Iterator<Item = (&'c str, String)>) -> Option<String> {
    names
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

    /// Asserts that each quoted part of an advice is a command with its options.
    fn assert_exists(root: &clap::Command, advice: &str) {
        let mut command = root;
        for line in advice.split('\'').skip(1).step_by(2) {
            let mut words = line.split(' ').peekable();
            if words.next_if_eq(&"hookstile").is_some() {
                command = root;
            }
            for word in words {
                if let Some(option) = word.strip_prefix("--") {
                    let mut options = command.get_arguments();
                    assert!(
                        command.get_name() == "hookstile"
                            || options.any(|other| other.get_long() == Some(option)),
                        "{line}: {word}"
                    );
                    break;
                }
                if word.chars().all(|c| c.is_ascii_uppercase()) {
                    break;
                }
                command = command
                    .find_subcommand(word)
                    .unwrap_or_else(|| panic!("{line}: {word}"));
            }
        }
    }

    #[test]
    fn hints_name_commands_that_exist() {
        let mut root = Cli::command();
        root.build();
        for (words, hint) in HINTS {
            assert_exists(&root, hint);
            for word in *words {
                assert!(root.find_subcommand(word).is_none(), "{word} is a command");
            }
        }
        for (group, hints) in NESTED {
            let group = root.find_subcommand(group).unwrap();
            for (words, hint) in *hints {
                assert_exists(&root, hint);
                for word in *words {
                    assert!(group.find_subcommand(word).is_none(), "{word} is a command");
                }
            }
        }
    }

    #[test]
    fn mistyped_command_is_recognised() {
        let root = Cli::command();
        for (line, expected) in [
            ("evnts", Some("'events'")),
            ("statsu", Some("'status'")),
            ("relaod", Some("'reload'")),
            ("redelivr", Some("'events redeliver'")),
            ("events lsit", Some("'events list'")),
            ("routes puase x", Some("'routes pause'")),
            ("routes stop x", Some("'hookstile routes pause ROUTE'")),
            ("get events", Some("'hookstile events list'")),
            ("get event x", Some("'hookstile events show'")),
            ("pause route x", Some("'hookstile routes pause'")),
            ("describe routes", Some("'hookstile routes list'")),
            ("delete route x", Some("'hookstile reload'")),
            ("qwertz", None),
            ("events qwertz", None),
        ] {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            let unknown = usize::from(root.find_subcommand(&words[0]).is_some());
            let advice = command_advice(&words[unknown], &root, &words);
            match expected {
                Some(expected) => assert!(
                    advice
                        .as_ref()
                        .is_some_and(|advice| advice.contains(expected)),
                    "{line}: {advice:?}"
                ),
                None => assert_eq!(advice, None, "{line}"),
            }
        }
    }
}

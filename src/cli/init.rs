//! `hookstile init`: writes a commented starter configuration.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::admin::CommandError;
use super::{input, terminal};
use crate::config::STANDARD_INPUT;
use crate::config::schema::SCHEMA_URL;
use crate::providers::{self, PresetHandshake};

/// Write a commented starter configuration
///
/// Never overwrites an existing file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile init
  hookstile init --provider stripe --output stripe.yaml")]
pub struct Args {
    /// Provider that sends the webhooks
    #[arg(
        long,
        value_name = "NAME",
        value_parser = input::provider_names(),
        default_value = "vpn-enterprise"
    )]
    pub provider: String,
    /// File to write, or - for standard output
    #[arg(long, value_name = "FILE", default_value = DEFAULT_OUTPUT)]
    pub output: PathBuf,
    /// Print one JSON document: the file that was written, and the next command
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    init(args).unwrap_or_else(|error| error.exit_with(args.json))
}

/// Writes `args.output`, unless the file exists or the provider is unknown.
fn init(args: &Args) -> Result<ExitCode, CommandError> {
    let output = args.output.display();
    // The parser of the argument knows the same names.
    let text = starter(&args.provider)
        .ok_or_else(|| CommandError::Usage("unknown provider".to_owned()))?;
    if args.output == Path::new(STANDARD_INPUT) {
        if args.json {
            let problem = "standard output cannot have both the configuration and --json";
            return Err(CommandError::Usage(problem.into()));
        }
        return Ok(terminal::finish(Ok(text)));
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.output);
    let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        CommandError::Failed(if error.kind() == io::ErrorKind::AlreadyExists {
            format!("{output} already exists; choose another file with --output")
        } else {
            format!("cannot write {output}: {error}")
        })
    })?;
    let option = if args.output == Path::new(DEFAULT_OUTPUT) {
        String::new()
    } else {
        format!(" -c {output}")
    };
    let next = format!("hookstile check{option}");
    if args.json {
        let document = json!({
            "success": true,
            "file": args.output.to_string_lossy(),
            "provider": args.provider,
            "next": next,
        });
        terminal::print(&terminal::json_line(&document))?;
    } else {
        terminal::print_line(&format!("wrote {output}; next: {next}"));
    }
    Ok(ExitCode::SUCCESS)
}

const DEFAULT_OUTPUT: &str = "hookstile.yaml";

/// Returns the starter configuration for a provider, or `None` if no preset has that name.
fn starter(provider: &str) -> Option<String> {
    let preset = providers::find(provider)?;
    let challenge = if matches!(preset.handshake, PresetHandshake::Query) {
        VERIFY_TOKEN
    } else {
        ""
    };
    let url = if (preset.scheme)().signed.needs_url() {
        PUBLIC_URL
    } else {
        ""
    };
    let text = STARTER.replace("EXTRAS", &format!("{challenge}{url}"));
    Some(
        text.replace("PROVIDER", preset.name)
            .replace("TITLE", preset.title)
            .replace("SCHEMA_URL", SCHEMA_URL),
    )
}

const VERIFY_TOKEN: &str =
    "    # The verify token that you entered at TITLE, which sends it to check the endpoint.
    challenge: {verify_token: {env: WEBHOOK_VERIFY_TOKEN}}
";

const PUBLIC_URL: &str =
    "    # The webhook URL exactly as you entered it at TITLE, which signs it along with the body.
    public_url: https://YOUR-HOST/webhooks/PROVIDER
";

// The first line is for editors with the YAML language server, which read the schema there.
const STARTER: &str = "\
# yaml-language-server: $schema=SCHEMA_URL
# hookstile configuration.
#   Check it:  hookstile check
#   Run it:    hookstile run
#   Try it:    hookstile send --route webhooks-PROVIDER
#   All keys:  docs/configuration.md; your editor may show them, by the line above

# Webhooks arrive here. For a public endpoint, add `tls:` or put a TLS proxy in front of it, and
# change the address to 0.0.0.0 if requests come from other machines.
listen:
  - address: 127.0.0.1:8080

# Dashboard (/), API, metrics (/metrics) and health checks (/healthz, /readyz). Keep this listener
# private. An address that other machines can reach requires `token:`.
admin:
  address: 127.0.0.1:9180

routes:
  # Enter this URL at TITLE: https://YOUR-HOST/webhooks/PROVIDER
  - path: /webhooks/PROVIDER
    provider: PROVIDER
    # The signing secret that TITLE shows for the webhook, read from this environment variable.
    # Use {file: PATH} to read it from a file. To rotate the secret without rejecting events, list
    # both secrets, each with a `name:`, until the old one is no longer used.
    secrets:
      - env: WEBHOOK_SECRET
EXTRAS    # Your application. It receives only verified events, unchanged, each event ID once.
    upstream: http://127.0.0.1:3000/webhooks/PROVIDER
    # Only these event types are delivered; others are acknowledged and dropped. Default: all types.
    # events: [\"user.*\"]
    # How events are delivered. `proxy` (default) returns your application's response to the sender.
    # `queue` stores the event, responds with 202, and retries until your application accepts it.
    # delivery: queue
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::config::schema::json_schema;
    use crate::providers::PRESETS;

    #[test]
    fn starter_is_valid_for_every_provider() {
        for preset in PRESETS {
            let text = starter(preset.name).unwrap();
            let prefix = (preset.scheme)().formats[0].key.prefix.to_string();
            let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
            let env = |_: &str| Some(format!("{prefix}{key}"));
            let loaded = config::load_text("hookstile.yaml", text.clone(), &env).unwrap();
            // The one value that nobody but the user knows.
            let placeholders = usize::from((preset.scheme)().signed.needs_url());
            let warnings = loaded.warnings.to_string();
            assert_eq!(
                warnings.matches("warning:").count(),
                placeholders,
                "{warnings}"
            );
            assert!(
                !text.contains("PROVIDER") && !text.contains("TITLE"),
                "{text}"
            );
            assert!(!text.contains("EXTRAS"), "{text}");
            let schema: serde_json::Value = serde_json::from_str(&json_schema()).unwrap();
            let named = text.lines().next().unwrap().split_once("$schema=").unwrap();
            assert_eq!(schema["$id"], named.1);
        }
    }

    #[test]
    fn init_never_overwrites_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("hookstile.yaml");
        let args = Args {
            provider: "vpn-enterprise".into(),
            output: output.clone(),
            json: false,
        };
        assert_eq!(run(&args), ExitCode::SUCCESS);
        std::fs::write(&output, "mine").unwrap();
        assert_eq!(run(&args), ExitCode::FAILURE);
        assert_eq!(std::fs::read_to_string(&output).unwrap(), "mine");
    }
}

//! `hookstile init`: writes a commented configuration to start from.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use super::USAGE;
use crate::providers::{self, PRESETS, PresetHandshake};

/// Write a commented configuration file to start from
///
/// A file that exists is left alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile init
  hookstile init --provider stripe --output stripe.yaml")]
pub struct Args {
    /// Who sends the webhooks
    #[arg(long, value_name = "NAME", default_value = "vpn-enterprise")]
    pub provider: String,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "hookstile.yaml")]
    pub output: PathBuf,
}

/// Writes `args.output`, unless it exists or the provider is unknown.
pub fn run(args: &Args) -> ExitCode {
    let mut stderr = io::stderr();
    let output = args.output.display();
    let Some(text) = starter(&args.provider) else {
        let known: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        let _ = writeln!(
            stderr,
            "error: unknown provider `{}`; known: {}",
            args.provider.escape_debug(),
            known.join(", ")
        );
        return ExitCode::from(USAGE);
    };
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.output);
    match written.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => {
            let _ = writeln!(
                stderr,
                "wrote {output}; next: hookstile check --config {output}"
            );
            ExitCode::SUCCESS
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let _ = writeln!(
                stderr,
                "error: {output} exists already; give another file with --output"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            let _ = writeln!(stderr, "error: cannot write {output}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The starter configuration for a provider; `None` when there is no such preset.
pub fn starter(provider: &str) -> Option<String> {
    let preset = providers::find(provider)?;
    let asks = if matches!(preset.handshake, PresetHandshake::Query) {
        VERIFY_TOKEN
    } else {
        ""
    };
    let url = if (preset.scheme)().signed.needs_url() {
        PUBLIC_URL
    } else {
        ""
    };
    let text = STARTER.replace("EXTRAS", &format!("{asks}{url}"));
    Some(
        text.replace("PROVIDER", preset.name)
            .replace("TITLE", preset.title),
    )
}

const VERIFY_TOKEN: &str =
    "    # The token that was entered at TITLE, which asks for it before it sends.
    challenge: {verify_token: {env: WEBHOOK_VERIFY_TOKEN}}
";

const PUBLIC_URL: &str = "    # The URL that was entered at TITLE, letter for letter: it is signed.
    public_url: https://YOUR-HOST/webhooks/PROVIDER
";

const STARTER: &str = "\
# hookstile's configuration. All keys: docs/configuration.md, or `hookstile schema`.
# Check it with `hookstile check --config FILE`, serve it with `hookstile run --config FILE`.

# Where webhooks come in. Listen on 0.0.0.0 once a firewall or a proxy stands in front.
listen:
  - address: 127.0.0.1:8080

# Health checks and metrics. Another address than this machine's own needs a `token`.
admin:
  address: 127.0.0.1:9180

routes:
  # TITLE sends here: the URL to enter there is https://YOUR-HOST/webhooks/PROVIDER
  - path: /webhooks/PROVIDER
    provider: PROVIDER
    # The secret that TITLE shows for the webhook, in this environment variable; or {file: PATH}.
    # To change it without a gap, list both, each with a `name`, until nothing is signed with the old one any more.
    secrets:
      - env: WEBHOOK_SECRET
EXTRAS    # Your application. It gets what is genuine, once, as it was sent.
    upstream: http://127.0.0.1:3000/webhooks/PROVIDER
    # Event types to hand over; others are acknowledged and dropped. Default: all.
    # events: [\"user.*\"]
    # Store events first, answer 202, and deliver until your application takes them. Default: proxy, its answer passed back.
    # delivery: queue
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_starter_is_valid_without_warnings_for_every_provider() {
        for preset in PRESETS {
            let text = starter(preset.name).unwrap();
            let prefix = (preset.scheme)().kinds[0].key.prefix.to_string();
            let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
            let env = |_: &str| Some(format!("{prefix}{key}"));
            let loaded = config::load_text("hookstile.yaml", text.clone(), &env).unwrap();
            assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
            assert!(
                !text.contains("PROVIDER") && !text.contains("TITLE"),
                "{text}"
            );
            assert!(!text.contains("EXTRAS"), "{text}");
        }
    }

    #[test]
    fn a_file_that_exists_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("hookstile.yaml");
        let args = Args {
            provider: "vpn-enterprise".into(),
            output: output.clone(),
        };
        assert_eq!(run(&args), ExitCode::SUCCESS);
        std::fs::write(&output, "mine").unwrap();
        assert_eq!(run(&args), ExitCode::FAILURE);
        assert_eq!(std::fs::read_to_string(&output).unwrap(), "mine");
    }
}

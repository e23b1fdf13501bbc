//! Finds the configuration file that a command reads.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The option for the configuration file.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ConfigArgs {
    /// Configuration file, or - for standard input [default: the file that `HOOKSTILE_CONFIG`
    /// names, else hookstile.yaml, else /etc/hookstile/hookstile.yaml]
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A configuration file that is the subject of a command. It can also be given without an option.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ConfigFileArgs {
    /// The same as --config
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// The variable that names the configuration file.
const VARIABLE: &str = "HOOKSTILE_CONFIG";

/// The files that are looked for, in this order.
const SEARCHED: [&str; 2] = ["hookstile.yaml", "/etc/hookstile/hookstile.yaml"];

impl ConfigArgs {
    /// Returns the file to read. Without any, it is the first that is looked for, whose absence is
    /// then reported.
    pub(super) fn path(&self) -> PathBuf {
        self.found().unwrap_or_else(|| SEARCHED[0].into())
    }

    /// Returns the file that is named, or the first that exists.
    pub(super) fn found(&self) -> Option<PathBuf> {
        let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
        find(self.config.clone(), std::env::var_os(VARIABLE), &exists)
    }

    /// Returns the file that is named: by the option, or by the environment.
    pub(super) fn named(&self) -> Option<PathBuf> {
        find(self.config.clone(), std::env::var_os(VARIABLE), &|_| false)
    }
}

impl ConfigFileArgs {
    /// Returns the file to read, as [`ConfigArgs::path`] does.
    pub(super) fn path(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(|| self.config.path())
    }
}

fn find(
    given: Option<PathBuf>,
    variable: Option<OsString>,
    exists: &dyn Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let variable = variable.filter(|value| !value.is_empty());
    let searched = || {
        SEARCHED
            .map(PathBuf::from)
            .into_iter()
            .find(|path| exists(path))
    };
    given.or(variable.map(PathBuf::from)).or_else(searched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_file_is_the_first_that_is_named_or_exists() {
        let [own, system] = SEARCHED;
        let found = |given: Option<&str>, variable: Option<&str>, existing: &[&str]| {
            let exists = |path: &Path| existing.iter().any(|name| path == Path::new(name));
            let found = find(given.map(Into::into), variable.map(Into::into), &exists);
            found.map(|path| path.display().to_string())
        };
        let all = [own, system];
        for (given, variable, existing, expected) in [
            (Some("a"), Some("b"), &all[..], Some("a")),
            (None, Some("b"), &all, Some("b")),
            (None, Some(""), &all, Some(own)),
            (None, None, &all, Some(own)),
            (None, None, &all[1..], Some(system)),
            (None, None, &[], None),
        ] {
            let expected = expected.map(str::to_owned);
            assert_eq!(
                found(given, variable, existing),
                expected,
                "{given:?} {variable:?}"
            );
        }
    }
}

//! The sender that `send` and `sign` imitate: a provider, or the sender of a configured route.

use jiff::Timestamp;

use super::admin::CommandError;
use super::config_file::ConfigArgs;
use super::input::{self, SecretArgs};
use crate::admin::reachable;
use crate::config::{self, Authentication, Endpoint, ListenAddress};
use crate::event::EnvelopeSpec;
use crate::providers;
use crate::secret::Secret;
use crate::signature::Scheme;

/// The arguments that select the sender to imitate.
#[derive(Debug, clap::Args)]
pub(super) struct SignerArgs {
    /// Provider to imitate: its signature scheme and its event format
    #[arg(
        long,
        value_name = "NAME",
        value_parser = input::provider_names(),
        required_unless_present = "route",
        conflicts_with = "route"
    )]
    provider: Option<String>,
    /// Route of the configuration whose sender to imitate, with its first secret that has not
    /// expired
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pub secret: SecretArgs,
}

/// A sender that is imitated.
pub(super) struct Signer {
    /// The sender's name in messages.
    pub title: String,
    pub scheme: Scheme,
    pub envelope: EnvelopeSpec,
    /// A type that its events have, and that its route delivers.
    pub example_type: String,
    pub secret: Secret,
    /// The URL of the route, and the `Host` of requests to it if that is another one. `Err` is the
    /// reason why there is none.
    pub target: Result<(String, Option<Box<str>>), String>,
}

/// The event type for a sender that is no known provider.
const EXAMPLE_TYPE: &str = "test.event";

impl SignerArgs {
    /// Returns the sender, and reads its secret.
    pub(super) fn signer(&self) -> Result<Signer, CommandError> {
        if let Some(route) = &self.route {
            return self.signer_of_route(route);
        }
        let preset = self.provider.as_deref().and_then(providers::find);
        let preset = preset.ok_or_else(|| CommandError::Usage("unknown provider".into()))?;
        if !self.secret.is_given() {
            let problem = "give --secret-env or --secret-file, or --route NAME to take the secret \
                           from the configuration";
            return Err(CommandError::Usage(problem.into()));
        }
        Ok(Signer {
            title: preset.title.into(),
            scheme: (preset.scheme)(),
            envelope: (preset.defaults.envelope)(),
            example_type: preset.example_type.into(),
            secret: self.secret.read().map_err(CommandError::Failed)?,
            target: Err("give the URL, or --route NAME".into()),
        })
    }

    fn signer_of_route(&self, route: &str) -> Result<Signer, CommandError> {
        let env = |name: &str| std::env::var(name).ok();
        let path = self.config.path();
        let Authentication {
            scheme,
            secrets,
            envelope,
            provider,
            events,
            endpoint,
            ..
        } = config::authentication(&path, &env, route)
            .map_err(|report| CommandError::Configuration(Box::new(report)))?;
        let secret = if self.secret.is_given() {
            self.secret.read().map_err(CommandError::Failed)?
        } else {
            let now = Timestamp::now();
            let valid = |expires: Option<Timestamp>| expires.is_none_or(|end| end > now);
            let secret = secrets.into_iter().find(|secret| valid(secret.expires));
            let problem = || CommandError::Failed("all secrets of the route have expired".into());
            secret.ok_or_else(problem)?.secret
        };
        let preset = provider.and_then(providers::find);
        Ok(Signer {
            title: preset.map_or_else(
                || format!("the route {route}"),
                |preset| preset.title.into(),
            ),
            scheme,
            envelope,
            example_type: example_type(preset.map(|preset| preset.example_type), &events),
            secret,
            target: endpoint.map(|endpoint| target(&endpoint)),
        })
    }
}

/// Returns a type that `events` accepts: the provider's example, or one that is made of a pattern.
fn example_type(example: Option<&str>, events: &[Box<str>]) -> String {
    let example = example.unwrap_or(EXAMPLE_TYPE);
    let filter = crate::route::EventFilter::new(events.iter().cloned());
    match events.first() {
        Some(first) if !filter.accepts(example) => first.replace('*', "test"),
        _ => example.to_owned(),
    }
}

/// Returns the URL of a route on this machine, and the `Host` of requests to it.
fn target(endpoint: &Endpoint) -> (String, Option<Box<str>>) {
    let (address, port) = match &endpoint.address {
        ListenAddress::Inet(address) => (reachable(*address).to_string(), address.port()),
        other => (other.to_string(), other.port().unwrap_or_default()),
    };
    let path = &endpoint.path;
    match &endpoint.host {
        // The name is also that of the certificate.
        Some(host) if endpoint.tls => (format!("https://{host}:{port}{path}"), None),
        None if endpoint.tls => (format!("https://{address}{path}"), None),
        host => (format!("http://{address}{path}"), host.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_type_passes_the_filter() {
        let example = |example, events: &[&str]| {
            let events: Vec<Box<str>> = events.iter().map(|&pattern| pattern.into()).collect();
            example_type(example, &events)
        };
        assert_eq!(example(Some("charge.succeeded"), &[]), "charge.succeeded");
        assert_eq!(
            example(Some("charge.succeeded"), &["charge.*"]),
            "charge.succeeded"
        );
        assert_eq!(
            example(Some("charge.succeeded"), &["user.*", "a"]),
            "user.test"
        );
        assert_eq!(example(None, &["*"]), EXAMPLE_TYPE);
    }

    #[test]
    fn target_is_the_route_on_this_machine() {
        let endpoint = |address: &str, tls, host: Option<&str>| {
            target(&Endpoint {
                address: ListenAddress::Inet(address.parse().unwrap()),
                tls,
                host: host.map(Into::into),
                path: "/w".into(),
            })
        };
        let host = Some("hooks.test");
        for (found, url, expected) in [
            (
                endpoint("0.0.0.0:80", false, None),
                "http://127.0.0.1:80/w",
                None,
            ),
            (endpoint("[::]:80", false, host), "http://[::1]:80/w", host),
            (
                endpoint("192.0.2.7:443", true, host),
                "https://hooks.test:443/w",
                None,
            ),
        ] {
            assert_eq!((found.0.as_str(), found.1.as_deref()), (url, expected));
        }
    }
}

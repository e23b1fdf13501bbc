//! The endpoint that is notified of problems.

use std::net::IpAddr;

use super::Compiler;
use crate::config::de::{Field, Located};
use crate::config::diagnostics::Diagnostic;
use crate::config::{facts, raw};
use crate::notifications;
use crate::signature::presets;
use crate::upstream::Target;

impl Compiler<'_> {
    /// Returns the settings, `Some(None)` if the key is absent, or `None` if it is wrong.
    #[expect(
        clippy::option_option,
        reason = "a wrong endpoint is not an absent one: there is no configuration with it"
    )]
    pub(super) fn notify(
        &self,
        field: &Field<raw::Notify>,
    ) -> Option<Option<notifications::Settings>> {
        let notify = match field {
            Field::Absent => return Some(None),
            Field::Wrong => return None,
            Field::Given(notify) => notify,
        };
        let raw::Notify {
            url,
            secret,
            begin_after,
            end_after,
        } = &notify.value;
        let begin_after = self.amount(begin_after, facts::NOTIFY_BEGIN_AFTER).0;
        let end_after = self.amount(end_after, facts::NOTIFY_END_AFTER).0;
        let url = self.required(url, notify.span, "notify", "url");
        let secret = self.required(secret, notify.span, "notify", "secret");
        let url = url.and_then(|url| self.notified_url(url));
        let reference = secret?;
        // A check without secrets has none, and nothing is sent.
        let Some(secret) = self.sole_secret(reference).ok()? else {
            return Some(None);
        };
        self.key(&secret, &presets::standard_webhooks(), reference.span)?;
        Some(Some(notifications::Settings {
            url: url?,
            secret: secret.secret,
            begin_after,
            end_after,
        }))
    }

    fn notified_url(&self, url: &Located<String>) -> Option<String> {
        let target = Target::parse(&url.value, None)
            .map_err(|error| {
                let problem = Diagnostic::error(url.span, "this is not an endpoint's URL");
                self.report(problem.label(format!("{error}")));
            })
            .ok()?;
        let address: Option<IpAddr> = target.host.parse().ok();
        let is_local = match address {
            Some(address) => address.to_canonical().is_loopback(),
            None => &*target.host == "localhost",
        };
        if !target.tls && !is_local {
            let warning = Diagnostic::warning(url.span, "notifications are sent unencrypted");
            self.report(
                warning.help("they name routes, upstreams and what fails there; use `https://`"),
            );
        }
        Some(url.value.clone())
    }
}

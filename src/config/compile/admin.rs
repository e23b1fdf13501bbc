//! The admin listener: its address, its tokens, its names, and the upstreams that webhooks made
//! over the API may use.

use super::Compiler;
use crate::config::de::{Field, Located};
use crate::config::diagnostics::{Diagnostic, Place};
use crate::config::tree::Span;
use crate::config::{Admin, Listen, ListenAddress, facts, raw};
use crate::signature::NamedSecret;
use crate::upstream::AllowedUpstream;

impl Compiler<'_> {
    pub(super) fn admin(&self, field: &Field<raw::Admin>, listen: &[Listen]) -> Option<Admin> {
        let absent = raw::Admin::default();
        let admin = field.value().unwrap_or(&absent);
        let address = admin
            .address
            .value()
            .map_or(facts::ADMIN_ADDRESS.default, |address| address.0);
        if let Some(given) = admin.address.given() {
            if !address.ip().to_canonical().is_loopback() && admin.token.is_absent() {
                self.report(
                    Diagnostic::error(
                        given.span,
                        "an admin listener that other machines can reach needs a token",
                    )
                    .help("add `token: {env: HOOKSTILE_ADMIN_TOKEN}`, or listen on 127.0.0.1"),
                );
            }
            if address.port() != 0
                && listen
                    .iter()
                    .any(|listen| listen.address == ListenAddress::Inet(address))
            {
                self.report(
                    Diagnostic::error(given.span, "a listener for webhooks has the same address")
                        .help("give each listener its own port"),
                );
            }
        }
        let allowed_upstreams = self.allowed_upstreams(&admin.allowed_upstreams);
        let max_webhooks = self.amount(&admin.max_webhooks, facts::MAX_WEBHOOKS);
        let hosts = self.admin_hosts(&admin.hosts);
        let (token, read_token) = (
            self.admin_token(&admin.token),
            self.admin_token(&admin.read_token),
        );
        let (token, read_token) = (token?, read_token?);
        if let Some(given) = admin.read_token.given() {
            if admin.token.is_absent() {
                let error = Diagnostic::error(given.span, "`read_token` needs a `token`");
                self.report(
                    error.help("add `token`; without it, no token is needed to change anything"),
                );
            }
            self.compare_tokens(token.as_ref(), read_token.as_ref(), given.span);
        }
        Some(Admin {
            address,
            place: Place(admin.address.given().map(|given| given.span)),
            token,
            read_token,
            hosts,
            allowed_upstreams,
            max_webhooks,
        })
    }

    fn compare_tokens(
        &self,
        token: Option<&NamedSecret>,
        read_token: Option<&NamedSecret>,
        span: Span,
    ) {
        let digest = read_token.map(|read| read.secret.digest());
        let is_same = |token: &NamedSecret| {
            digest.is_some_and(|digest| digest.matches(token.secret.expose()))
        };
        if token.is_some_and(is_same) {
            let error = Diagnostic::error(span, "`read_token` is the same as `token`");
            self.report(error.help("use another one; this one may change everything"));
        }
    }

    fn admin_hosts(&self, field: &Field<Vec<Field<String>>>) -> Vec<Box<str>> {
        let Some(list) = field.given() else {
            return Vec::new();
        };
        if list.value.is_empty() {
            let error = Diagnostic::error(list.span, "an empty list adds no host");
            self.report(
                error.help("remove `hosts` to accept the machine's own name and addresses only"),
            );
        }
        list.value
            .iter()
            .filter_map(Field::given)
            .filter_map(|host| self.host(host))
            .map(Into::into)
            .collect()
    }

    fn allowed_upstreams(&self, field: &Field<Vec<Field<String>>>) -> Option<Vec<AllowedUpstream>> {
        let list = field.given()?;
        if list.value.is_empty() {
            let error = Diagnostic::error(list.span, "an empty list would allow no upstream");
            self.report(error.help("remove `allowed_upstreams` to allow any"));
        }
        let allowed = list.value.iter().filter_map(Field::given);
        Some(
            allowed
                .filter_map(|url| self.allowed_upstream(url))
                .collect(),
        )
    }

    fn allowed_upstream(&self, url: &Located<String>) -> Option<AllowedUpstream> {
        match url.value.parse() {
            Ok(allowed) => Some(allowed),
            Err(error) => {
                let problem = Diagnostic::error(url.span, "this is not an upstream's URL");
                self.report(problem.label(format!("{error}")));
                None
            }
        }
    }

    /// Returns the token, `Some(None)` if the key is absent or the check is without secrets, or
    /// `None` if it is wrong.
    #[expect(
        clippy::option_option,
        reason = "a wrong token is not an absent one: there is no configuration with it"
    )]
    pub(super) fn admin_token(&self, field: &Field<raw::Reference>) -> Option<Option<NamedSecret>> {
        match field {
            Field::Absent => Some(None),
            Field::Wrong => None,
            Field::Given(reference) => self.token(reference).ok(),
        }
    }
}

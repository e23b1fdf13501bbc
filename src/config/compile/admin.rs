//! The admin listener: where it is, who may use it, and what may be made over it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Compiler;
use crate::config::de::{Field, Located};
use crate::config::diagnostics::Diagnostic;
use crate::config::tree::Span;
use crate::config::{Admin, Listen, raw};
use crate::signature::NamedSecret;
use crate::upstream::AllowedUpstream;

pub(super) const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

impl Compiler<'_> {
    pub(super) fn admin(&self, field: &Field<raw::Admin>, listen: &[Listen]) -> Option<Admin> {
        let absent = raw::Admin::default();
        let admin = field.value().unwrap_or(&absent);
        let address = admin
            .address
            .value()
            .map_or(DEFAULT_ADDRESS, |address| address.0);
        if let Some(given) = admin.address.given() {
            if !address.ip().to_canonical().is_loopback() && admin.token.is_absent() {
                self.report(
                    Diagnostic::error(
                        given.span,
                        "an admin listener that others can reach needs a token",
                    )
                    .help("add `token: {env: HOOKSTILE_ADMIN_TOKEN}`, or listen on 127.0.0.1"),
                );
            }
            if address.port() != 0 && listen.iter().any(|listen| listen.address == address) {
                self.report(
                    Diagnostic::error(given.span, "webhooks come in at this address already")
                        .help("give each its own port"),
                );
            }
        }
        let allowed_upstreams = self.allowed_upstreams(&admin.allowed_upstreams);
        let hosts = self.admin_hosts(&admin.hosts);
        let (token, read_token) = (
            self.admin_token(&admin.token),
            self.admin_token(&admin.read_token),
        );
        let (token, read_token) = (token?, read_token?);
        if let Some(given) = admin.read_token.given() {
            self.compare_tokens(token.as_ref(), read_token.as_ref(), given.span);
        }
        Some(Admin {
            address,
            token,
            read_token,
            hosts,
            allowed_upstreams,
        })
    }

    fn compare_tokens(
        &self,
        token: Option<&NamedSecret>,
        read_token: Option<&NamedSecret>,
        span: Span,
    ) {
        let digest = read_token.map(|read| read.secret.digest());
        match token {
            None => {
                let error = Diagnostic::error(span, "a token for looking, and none for changing");
                self.report(error.help("without `token` anybody may do anything; add it"));
            }
            Some(token) if digest.is_some_and(|digest| digest.matches(token.secret.expose())) => {
                let error = Diagnostic::error(span, "the same as `token`");
                self.report(error.help("whoever has it may do anything; make another one"));
            }
            Some(_) => {}
        }
    }

    fn admin_hosts(&self, field: &Field<Vec<Field<String>>>) -> Vec<Box<str>> {
        let Some(list) = field.given() else {
            return Vec::new();
        };
        if list.value.is_empty() {
            let error = Diagnostic::error(list.span, "an empty list adds no name");
            self.report(
                error.help("leave `hosts` out to go by the machine's own name and addresses"),
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
            self.report(error.help("leave `allowed_upstreams` out to allow any"));
        }
        let parse = |text: &Located<String>| {
            let refuse = |error| {
                self.report(
                    Diagnostic::error(text.span, "this is no such URL").label(format!("{error}")),
                )
            };
            text.value.parse().map_err(refuse).ok()
        };
        Some(
            list.value
                .iter()
                .filter_map(Field::given)
                .filter_map(parse)
                .collect(),
        )
    }

    /// `Some(None)` where there is none.
    #[expect(
        clippy::option_option,
        reason = "wrong and absent are not the same: the one is no configuration"
    )]
    pub(super) fn admin_token(&self, field: &Field<raw::Reference>) -> Option<Option<NamedSecret>> {
        match field {
            Field::Absent => Some(None),
            Field::Wrong => None,
            Field::Given(reference) => self.token(reference).map(Some),
        }
    }
}

//! Listeners for webhooks: their addresses, their certificates and the PROXY protocol.

use rustls_pki_types::CertificateDer;

use super::{Compiler, trusted_proxies, trusts_unix_peers};
use crate::config::de::{Field, Located, OneOrMore};
use crate::config::diagnostics::{Diagnostic, Place};
use crate::config::tree::Span;
use crate::config::values::{ListenerAddress, Proxy};
use crate::config::{Listen, ListenAddress, ListenTls, facts, raw};
use crate::tls::{self, Certificate, Chain, KeyError};

impl Compiler<'_> {
    pub(super) fn listen(
        &self,
        field: &Field<Vec<Field<raw::Listen>>>,
        proxies: &Field<Vec<Field<Proxy>>>,
    ) -> Vec<Listen> {
        let Some(list) = field.given() else {
            return vec![Listen {
                place: Place::default(),
                address: ListenAddress::Inet(facts::LISTEN_ADDRESS),
                mode: facts::SOCKET_MODE.default.0,
                tls: None,
                proxy_protocol: facts::PROXY_PROTOCOL.default,
            }];
        };
        if list.value.is_empty() {
            self.report(
                Diagnostic::error(list.span, "the configuration has no listeners").help(format!(
                    "remove `listen` to use the default, {}",
                    facts::LISTEN_ADDRESS
                )),
            );
        }
        let mut addresses: Vec<Located<ListenAddress>> = Vec::new();
        let mut listeners = Vec::new();
        for listen in list.value.iter().filter_map(Field::given) {
            let tls = self.listen_tls(&listen.value);
            let proxy_protocol = self.proxy_protocol(&listen.value, proxies);
            let Some(address) =
                self.required(&listen.value.address, listen.span, "listener", "address")
            else {
                continue;
            };
            let (address, span) = (address.value.0.clone(), address.span);
            let mode = self.socket_mode(&listen.value, &address);
            match addresses
                .iter()
                .find(|other| other.value == address && address.port() != Some(0))
            {
                Some(first) => {
                    self.report(
                        Diagnostic::error(span, "two listeners have the same address")
                            .also(first.span, "the first listener"),
                    );
                }
                None => {
                    addresses.push(Located {
                        value: address.clone(),
                        span,
                    });
                    listeners.push(Listen {
                        place: Place(Some(span)),
                        address,
                        mode,
                        tls,
                        proxy_protocol,
                    });
                }
            }
        }
        listeners
    }

    /// Returns the permissions of a listener's socket file.
    fn socket_mode(&self, listen: &raw::Listen, address: &ListenAddress) -> u32 {
        if let (Some(given), false) = (
            listen.mode.given(),
            matches!(address, ListenAddress::Unix(_)),
        ) {
            let error = Diagnostic::error(given.span, "`mode` is for Unix sockets");
            self.report(error.help("remove it, or listen on `unix:/run/hookstile/http.sock`"));
        }
        facts::SOCKET_MODE.value_of(&listen.mode).0
    }

    fn proxy_protocol(&self, listen: &raw::Listen, proxies: &Field<Vec<Field<Proxy>>>) -> bool {
        let enabled = facts::PROXY_PROTOCOL.value_of(&listen.proxy_protocol);
        let no_proxies = proxies
            .given()
            .map_or(proxies.is_absent(), |list| list.value.is_empty());
        if let (true, true, Some(given)) = (enabled, no_proxies, listen.proxy_protocol.given()) {
            let error = Diagnostic::error(given.span, "`proxy_protocol` needs `trusted_proxies`");
            self.report(error.help(
                "add the load balancer's addresses to `trusted_proxies`, or remove this key",
            ));
        } else if let (true, Some(ListenerAddress(ListenAddress::Unix(_))), Some(given)) = (
            enabled && !trusts_unix_peers(&trusted_proxies(proxies)),
            listen.address.value(),
            listen.proxy_protocol.given(),
        ) {
            let error = Diagnostic::error(given.span, "no peer of this Unix socket is trusted");
            self.report(error.help("add `unix` to `trusted_proxies`, or remove this key"));
        }
        enabled
    }

    fn listen_tls(&self, listen: &raw::Listen) -> Option<ListenTls> {
        let client_ca = listen
            .client_ca
            .given()
            .map(|path| (path.span, self.client_ca(path)));
        let Some(pairs) = listen.tls.given() else {
            if let (true, Some((span, _))) = (listen.tls.is_absent(), &client_ca) {
                let error = Diagnostic::error(*span, "`client_ca` needs `tls`");
                self.report(error.help("add `tls: {certificate, key}`, or remove `client_ca`"));
            }
            return None;
        };
        if self.certificates_unchecked(pairs) {
            return None;
        }
        let certificates = self.certificates(pairs)?;
        let ca = match client_ca {
            None => None,
            Some((_, ca)) => Some(ca?),
        };
        let (paths, certificates): (Vec<_>, Vec<_>) = certificates.into_iter().unzip();
        let span = listen
            .client_ca
            .given()
            .map_or(pairs.span, |path| path.span);
        let settings = tls::Settings::new(certificates, ca)
            .map_err(|error| self.report(Diagnostic::error(span, error.to_string())))
            .ok()?;
        Some(ListenTls {
            settings,
            certificates: paths,
        })
    }

    /// Returns whether the check is without secrets, and so without the keys of certificates.
    fn certificates_unchecked(&self, pairs: &Located<OneOrMore<raw::Certificate>>) -> bool {
        let keys = pairs.value.0.iter().filter_map(Field::value);
        keys.filter_map(|pair| pair.certificate.value().and(pair.key.value()))
            .fold(false, |_, key| self.leaves_unchecked(key))
    }

    fn client_ca(&self, path: &Located<String>) -> Option<Vec<CertificateDer<'static>>> {
        tls::certificates(&self.read(path)?)
            .map_err(|error| self.report_file(path, error))
            .ok()
    }

    /// Returns all certificates with their paths, or `None` if one of them is wrong.
    fn certificates(
        &self,
        pairs: &Located<OneOrMore<raw::Certificate>>,
    ) -> Option<Vec<(Box<str>, Certificate)>> {
        let list = &pairs.value.0;
        if list.is_empty() {
            let error = Diagnostic::error(pairs.span, "`tls` has no certificate");
            self.report(error.help(
                "add one, for example `{certificate: tls.crt, key: tls.key}`, or remove `tls`",
            ));
            return None;
        }
        let certificates: Vec<_> = list
            .iter()
            .filter_map(Field::given)
            .map(|pair| self.certificate(pair))
            .collect();
        if certificates.len() < list.len() {
            return None;
        }
        let certificates: Vec<_> = certificates.into_iter().collect::<Option<_>>()?;
        for (at, (span, _, certificate)) in certificates.iter().enumerate().skip(1) {
            let earlier = &certificates[..at];
            if certificate.names.iter().all(|name| {
                earlier
                    .iter()
                    .any(|(_, _, other)| other.names.contains(name))
            }) {
                let warning = Diagnostic::warning(*span, "this certificate is never used");
                self.report(
                    warning.help(
                        "earlier certificates cover its DNS names, or it has none; remove it",
                    ),
                );
            }
        }
        Some(
            certificates
                .into_iter()
                .map(|(_, path, certificate)| (path, certificate))
                .collect(),
        )
    }

    fn certificate(
        &self,
        pair: &Located<raw::Certificate>,
    ) -> Option<(Span, Box<str>, Certificate)> {
        let path = self.required(&pair.value.certificate, pair.span, "entry", "certificate");
        let key_path = self.required(&pair.value.key, pair.span, "entry", "key");
        let (path, key_path) = (path?, key_path?);
        let (chain, key) = (self.chain(path), self.read(key_path));
        match chain?.with_key(&key?) {
            Ok(certificate) => Some((path.span, path.value.as_str().into(), certificate)),
            Err(error) => {
                let problem = Diagnostic::error(key_path.span, format!("this file {error}"));
                self.report(match error {
                    KeyError::OfAnother => {
                        problem.also(path.span, "the key of this certificate is needed")
                    }
                    KeyError::Encrypted => problem
                        .help("store it without a passphrase, readable only by the gateway's user"),
                    _ => problem,
                });
                None
            }
        }
    }

    fn chain(&self, path: &Located<String>) -> Option<Chain> {
        let chain = Chain::from_pem(&self.read(path)?)
            .map_err(|error| self.report_file(path, error))
            .ok()?;
        // A late renewal must not keep the gateway from a start or a reload.
        if chain.not_after <= self.sources.now {
            let warning = Diagnostic::warning(
                path.span,
                format!("this certificate expired at {}", chain.not_after),
            );
            self.report(warning.help("senders that verify it cannot connect; renew it"));
        } else if chain.not_before > self.sources.now {
            let warning = Diagnostic::warning(
                path.span,
                format!("this certificate is not valid before {}", chain.not_before),
            );
            self.report(
                warning.help("until then, senders that verify it cannot connect; check the clock"),
            );
        }
        Some(chain)
    }

    /// Reports what is wrong with a file's content; `error` completes the sentence.
    pub(super) fn report_file(&self, path: &Located<String>, error: impl std::fmt::Display) {
        self.report(Diagnostic::error(path.span, format!("this file {error}")));
    }
}

//! Listeners for webhooks: where they are, and what they show to those who connect.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::Compiler;
use crate::config::de::{Field, Located, OneOrMore};
use crate::config::diagnostics::Diagnostic;
use crate::config::tree::Span;
use crate::config::values::Network;
use crate::config::{Listen, ListenTls, raw};
use crate::tls::{self, Certificate, Chain, KeyError};

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

impl Compiler<'_> {
    pub(super) fn listen(
        &self,
        field: &Field<Vec<Field<raw::Listen>>>,
        proxies: &Field<Vec<Field<Network>>>,
    ) -> Vec<Listen> {
        let Some(list) = field.given() else {
            return vec![Listen {
                address: DEFAULT_LISTEN,
                tls: None,
                proxy_protocol: false,
            }];
        };
        if list.value.is_empty() {
            self.report(
                Diagnostic::error(list.span, "there is no listener")
                    .help("leave `listen` out for the default, 127.0.0.1:8080"),
            );
        }
        let mut seen: Vec<Located<SocketAddr>> = Vec::new();
        let mut listeners = Vec::new();
        for listen in list.value.iter().filter_map(Field::given) {
            let tls = self.listen_tls(&listen.value);
            let proxy_protocol = self.proxy_protocol(&listen.value, proxies);
            let Some(address) =
                self.required(&listen.value.address, listen.span, "listener", "address")
            else {
                continue;
            };
            let (address, span) = (address.value.0, address.span);
            match seen
                .iter()
                .find(|other| other.value == address && address.port() != 0)
            {
                Some(first) => {
                    self.report(
                        Diagnostic::error(span, "two listeners have the same address")
                            .also(first.span, "the first one"),
                    );
                }
                None => {
                    seen.push(Located {
                        value: address,
                        span,
                    });
                    listeners.push(Listen {
                        address,
                        tls,
                        proxy_protocol,
                    });
                }
            }
        }
        listeners
    }

    fn proxy_protocol(&self, listen: &raw::Listen, proxies: &Field<Vec<Field<Network>>>) -> bool {
        let Some(given) = listen.proxy_protocol.given().filter(|given| given.value) else {
            return false;
        };
        let nobody = proxies
            .given()
            .map_or(proxies.is_absent(), |list| list.value.is_empty());
        if nobody {
            let error = Diagnostic::error(
                given.span,
                "nobody is trusted to say whose connection it is",
            );
            self.report(error.help(
                "name the load balancer's addresses in `trusted_proxies`, or leave this out",
            ));
        }
        true
    }

    fn listen_tls(&self, listen: &raw::Listen) -> Option<ListenTls> {
        let client_ca = listen
            .client_ca
            .given()
            .map(|path| (path.span, self.client_ca(path)));
        let Some(pairs) = listen.tls.given() else {
            if let (true, Some((span, _))) = (listen.tls.is_absent(), &client_ca) {
                let error = Diagnostic::error(*span, "without TLS no sender shows a certificate");
                self.report(error.help("add `tls: {certificate, key}`, or leave `client_ca` out"));
            }
            return None;
        };
        let certificates = self.certificates(pairs)?;
        let ca = match client_ca {
            None => None,
            Some((_, ca)) => Some(ca?),
        };
        let (paths, certificates): (Vec<_>, Vec<_>) = certificates.into_iter().unzip();
        let place = listen
            .client_ca
            .given()
            .map_or(pairs.span, |path| path.span);
        let refuse =
            |error: tls::SettingsError| self.report(Diagnostic::error(place, error.to_string()));
        Some(ListenTls {
            settings: tls::Settings::new(certificates, ca).map_err(refuse).ok()?,
            certificates: paths,
            files: self.files_of(listen),
        })
    }

    fn client_ca(&self, path: &Located<String>) -> Option<Vec<CertificateDer<'static>>> {
        let refuse =
            |error| self.report(Diagnostic::error(path.span, format!("this file {error}")));
        tls::certificates(&self.read(path)?).map_err(refuse).ok()
    }

    /// All certificates with their files, or none when one of them is wrong.
    fn certificates(
        &self,
        pairs: &Located<OneOrMore<raw::Certificate>>,
    ) -> Option<Vec<(Box<str>, Certificate)>> {
        let list = &pairs.value.0;
        if list.is_empty() {
            let error = Diagnostic::error(pairs.span, "there is no certificate to show");
            self.report(
                error.help(
                    "add one, as in `{certificate: tls.crt, key: tls.key}`, or leave `tls` out",
                ),
            );
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
            let is_shown = |name| {
                !earlier
                    .iter()
                    .any(|(_, _, other)| other.names.contains(name))
            };
            if !certificate.names.iter().any(is_shown) {
                let warning = Diagnostic::warning(*span, "no sender is shown this certificate");
                self.report(warning.help(
                    "those before it are for its DNS names, or it is for none; leave it out",
                ));
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
        let path = self.required(&pair.value.certificate, pair.span, "pair", "certificate");
        let key_path = self.required(&pair.value.key, pair.span, "pair", "key");
        let (path, key_path) = (path?, key_path?);
        let (chain, key) = (self.chain(path), self.read(key_path).map(Zeroizing::new));
        let refuse = |error: KeyError| {
            let problem = Diagnostic::error(key_path.span, format!("this file {error}"));
            self.report(match error {
                KeyError::OfAnother => problem.also(path.span, "this one's is wanted"),
                KeyError::Encrypted => {
                    problem.help("write it without one, where the gateway alone may read it")
                }
                _ => problem,
            });
        };
        let certificate = chain?.with_key(&key?).map_err(refuse).ok()?;
        Some((path.span, path.value.as_str().into(), certificate))
    }

    fn chain(&self, path: &Located<String>) -> Option<Chain> {
        let refuse =
            |error| self.report(Diagnostic::error(path.span, format!("this file {error}")));
        let chain = Chain::from_pem(&self.read(path)?).map_err(refuse).ok()?;
        // A renewal that is late must not keep the gateway from starting, or from a reload.
        if chain.not_after <= self.sources.now {
            let warning = Diagnostic::warning(
                path.span,
                format!("this certificate expired at {}", chain.not_after),
            );
            self.report(warning.help("senders that check it don't connect any more; renew it"));
        } else if chain.not_before > self.sources.now {
            let warning = Diagnostic::warning(
                path.span,
                format!("this certificate counts from {}", chain.not_before),
            );
            self.report(
                warning.help("until then senders that check it don't connect; is the clock right?"),
            );
        }
        Some(chain)
    }

    fn files_of(&self, listen: &raw::Listen) -> Vec<PathBuf> {
        let pairs = listen
            .tls
            .value()
            .into_iter()
            .flat_map(|pairs| &pairs.0)
            .filter_map(Field::value);
        let named = pairs
            .flat_map(|pair| [&pair.certificate, &pair.key])
            .chain([&listen.client_ca]);
        named
            .filter_map(Field::value)
            .map(|path| self.sources.folder.join(path))
            .collect()
    }
}

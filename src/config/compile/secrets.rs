//! Secrets and tokens: from a reference to key material.
//!
//! Owns every place where the configuration touches a secret's bytes. No message holds any of them.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Compiler;
use crate::config::de::{Field, Located};
use crate::config::diagnostics::Diagnostic;
use crate::config::raw::Reference;
use crate::config::redact::is_variable;
use crate::config::tree::Span;
use crate::secret::Secret;
use crate::signature::{KeyError, NamedKey, NamedSecret, Scheme};

/// Tells secrets apart without keeping them.
pub(super) type Fingerprint = [u8; 32];

/// A rotation has two; each one more costs every request one more hash of its body.
const SECRETS_MANY: usize = 3;

/// Where a secret comes from.
enum Origin<'a> {
    Variable(&'a Located<String>),
    File(&'a Located<String>),
    Literal,
}

impl Compiler<'_> {
    /// A route's secrets, as keys for its scheme. `place` is the route, `index` its number.
    pub(super) fn secrets(
        &self,
        field: &Field<Vec<Field<Reference>>>,
        place: Span,
        index: usize,
        scheme: Option<&Scheme>,
    ) -> Option<Vec<NamedKey>> {
        let list = self.required(field, place, "route", "secrets")?;
        if list.value.is_empty() {
            self.report(
                Diagnostic::error(
                    list.span,
                    "a route without secrets would be open to anybody",
                )
                .help("add a reference, such as `secrets: [{env: WEBHOOK_SECRET}]`"),
            );
            return None;
        }
        let mut secrets: Vec<NamedKey> = Vec::new();
        let mut names: Vec<(Arc<str>, Span)> = Vec::new();
        let mut complete = true;
        for (position, reference) in list.value.iter().enumerate() {
            let secret = reference.given().and_then(|reference| {
                let secret = self.secret(reference, position)?;
                let name = self.secret_name(reference, &secret.name, &mut names);
                self.compare(&secret.secret, reference.span, index);
                self.key(&NamedSecret { name, ..secret }, scheme?, reference.span)
            });
            complete &= secret.is_some();
            secrets.extend(secret);
        }
        self.mention_expired(list);
        if !complete {
            return None;
        }
        if secrets
            .iter()
            .all(|secret| secret.expires.is_some_and(|end| end <= self.sources.now))
        {
            self.report(Diagnostic::error(
                list.span,
                "all secrets of this route have expired",
            ));
        }
        if secrets.len() > SECRETS_MANY {
            self.report(Diagnostic::warning(list.span, format!("this route has {} secrets", secrets.len())).help(
                "each one costs every request another hash of its body; drop those that no sender uses any more",
            ));
        }
        Some(secrets)
    }

    /// A route's secrets as they are written, whatever they may be for its scheme.
    pub(super) fn named_secrets(
        &self,
        field: &Field<Vec<Field<Reference>>>,
        place: Span,
    ) -> Option<Vec<NamedSecret>> {
        let list = self.required(field, place, "route", "secrets")?;
        let mut names = Vec::new();
        let read = |(position, reference): (usize, &Field<Reference>)| {
            let reference = reference.given()?;
            let secret = self.secret(reference, position)?;
            Some(NamedSecret {
                name: self.secret_name(reference, &secret.name, &mut names),
                ..secret
            })
        };
        list.value.iter().enumerate().map(read).collect()
    }

    fn key(&self, secret: &NamedSecret, scheme: &Scheme, span: Span) -> Option<NamedKey> {
        let refuse = |error: KeyError| {
            let help = match error {
                KeyError::NotBase64
                | KeyError::NotHex
                | KeyError::Empty
                | KeyError::NotPublicKey
                | KeyError::WeakPublicKey => {
                    "copy it whole, as the sender shows it; a scheme of your own says with `secret_encoding` and \
                     `strip_prefix` how it is written"
                }
                KeyError::PrivateKey | KeyError::NotPrivateKey => {
                    "the sender shows the public key beside it"
                }
            };
            self.report(Diagnostic::error(span, error.to_string()).help(help));
        };
        if scheme.is_prefix_missing(&secret.secret) {
            let [first, second] = [0, 1].map(|kind| &*scheme.formats[kind].key.prefix);
            let warning = Diagnostic::warning(
                span,
                format!("the secret begins neither with `{first}` nor with `{second}`"),
            );
            self.report(warning.label(format!("taken for a `{first}`")).help(
                "copy it whole, as the sender shows it: a public key in its place would let anybody sign who knows it",
            ));
        }
        secret.for_scheme(scheme).map_err(refuse).ok()
    }

    fn mention_expired(&self, list: &Located<Vec<Field<Reference>>>) {
        for reference in list.value.iter().filter_map(Field::value) {
            if let Some(end) = reference
                .expires
                .given()
                .filter(|end| end.value.0 <= self.sources.now)
            {
                let warning = Diagnostic::warning(end.span, "this secret has expired");
                self.report(warning.help("it verifies nothing any more; take it out"));
            }
        }
    }

    /// The admin listener's token, a provider's verify token, or the URL of a database.
    pub(super) fn token(&self, reference: &Located<Reference>) -> Option<NamedSecret> {
        let token = self.secret(reference, 0)?;
        if token.expires.is_some_and(|end| end <= self.sources.now) {
            self.report(Diagnostic::error(reference.span, "this token has expired"));
        }
        Some(token)
    }

    /// The secret under its default name.
    fn secret(&self, reference: &Located<Reference>, position: usize) -> Option<NamedSecret> {
        let origin = self.origin(reference)?;
        let (bytes, at, default_name) = match &origin {
            Origin::Variable(name) => (self.variable(name)?, name.span, name.value.clone()),
            Origin::File(path) => (
                Zeroizing::new(self.read(path)?),
                path.span,
                file_name(&path.value),
            ),
            Origin::Literal => {
                let literal = reference.value.value.given()?;
                let bytes = Zeroizing::new(literal.value.0.as_bytes().to_vec());
                (bytes, literal.span, format!("secret-{}", position + 1))
            }
        };
        let bytes = match origin {
            Origin::File(_) => Secret::without_newline(&bytes),
            Origin::Variable(_) | Origin::Literal => &bytes,
        };
        let Ok(secret) = Secret::new(bytes) else {
            self.report(
                Diagnostic::error(at, "the secret is empty")
                    .help("anybody could sign with an empty secret"),
            );
            return None;
        };
        if let Origin::Literal = origin {
            self.report(
                Diagnostic::warning(at, "a secret stands in the configuration itself")
                    .help("whoever reads this file has it; better `{env: NAME}` or `{file: PATH}`"),
            );
        }
        if bytes.trim_ascii().len() < bytes.len() {
            self.report(
                Diagnostic::warning(at, "the secret begins or ends with white space")
                    .help("it is part of the key"),
            );
        }
        let expires = reference.value.expires.value().map(|end| end.0);
        Some(NamedSecret {
            name: default_name.into(),
            secret,
            expires,
        })
    }

    fn origin<'r>(&self, reference: &'r Located<Reference>) -> Option<Origin<'r>> {
        let Reference {
            env, file, value, ..
        } = &reference.value;
        let given = [!env.is_absent(), !file.is_absent(), !value.is_absent()]
            .into_iter()
            .filter(|&given| given)
            .count();
        if given != 1 {
            let message = if given == 0 {
                "this does not say where the secret is"
            } else {
                "this says more than once where the secret is"
            };
            self.report(
                Diagnostic::error(reference.span, message)
                    .help("give exactly one of `env`, `file` and `value`"),
            );
            return None;
        }
        match (env, file) {
            (Field::Given(name), _) => Some(Origin::Variable(name)),
            (_, Field::Given(path)) => Some(Origin::File(path)),
            _ => value.given().map(|_| Origin::Literal),
        }
    }

    fn variable(&self, name: &Located<String>) -> Option<Zeroizing<Vec<u8>>> {
        if !is_variable(&name.value) {
            self.report(
                Diagnostic::error(name.span, "this is not the name of an environment variable")
                    .help("the name goes here, never the secret"),
            );
            return None;
        }
        let value = (self.sources.env)(&name.value);
        if value.is_none() {
            let error = Diagnostic::error(
                name.span,
                format!("the environment variable `{}` is not set", name.value),
            );
            self.report(
                error.help(
                    "set it where the gateway is started, or refer to a file: `{file: PATH}`",
                ),
            );
        }
        value.map(|value| Zeroizing::new(value.into_bytes()))
    }

    /// The name of a secret, unique in its route.
    fn secret_name(
        &self,
        reference: &Located<Reference>,
        default: &str,
        names: &mut Vec<(Arc<str>, Span)>,
    ) -> Arc<str> {
        let taken = |names: &[(Arc<str>, Span)], wanted: &str| {
            names
                .iter()
                .find(|(name, _)| **name == *wanted)
                .map(|(_, span)| *span)
        };
        let name: Arc<str> = if let Some(given) = self.name(&reference.value.name) {
            if let Some(first) = taken(names, &given.value) {
                let error =
                    Diagnostic::error(given.span, "another secret of this route has the same name");
                self.report(error.also(first, "the first one"));
            }
            given.value.into()
        } else {
            let copies = (2..).map(|copy| format!("{default}-{copy}"));
            let mut candidates = std::iter::once(default.to_string()).chain(copies);
            candidates
                .find(|name| taken(names, name).is_none())
                .unwrap_or_default()
                .into()
        };
        names.push((Arc::clone(&name), reference.span));
        name
    }

    /// Warns about a secret that is there twice: an event for one route would be genuine for the other too.
    fn compare(&self, secret: &Secret, span: Span, route: usize) {
        let fingerprint = Sha256::digest(secret.expose()).into();
        let mut seen = self.fingerprints.borrow_mut();
        let &mut (other, first) = seen.entry(fingerprint).or_insert((route, span));
        if other == route && first == span {
            return;
        }
        let warning = if other == route {
            Diagnostic::warning(span, "this secret is in the list twice")
                .also(first, "the first one")
        } else if first == span {
            Diagnostic::warning(span, "several routes have the same secret")
        } else {
            Diagnostic::warning(span, "another route has the same secret")
                .also(first, "the first one")
        };
        let help = if other == route {
            "one is enough"
        } else {
            "an event for the one is genuine for the other too, and can be replayed there"
        };
        self.report(warning.help(help));
    }
}

/// The default name of a secret from a file, fit for a metric's label.
fn file_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    name.chars().take(64).map(fit).collect()
}

//! Secrets and tokens: reads a reference and turns it into key material.
//!
//! Owns all code of the configuration that handles a secret's bytes. No message contains any of
//! them.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Compiler;
use crate::config::de::{Field, Located};
use crate::config::diagnostics::Diagnostic;
use crate::config::facts;
use crate::config::files::UnreadableSecret;
use crate::config::mistakes;
use crate::config::raw::Reference;
use crate::config::redact::{has_secret_prefix, is_shown_variable, is_variable};
use crate::config::tree::Span;
use crate::config::values::Literal;
use crate::secret::{self, Oddity, Secret};
use crate::signature::{KeyError, NamedKey, NamedSecret, Scheme};

/// A digest that distinguishes secrets without keeping them.
pub(super) type Fingerprint = [u8; 32];

/// The number of secrets above which a route is warned about. A rotation needs two, and each one
/// more costs every request one more hash of its body.
const SECRETS_MANY: usize = 3;

/// The number of characters below which a secret is warned about.
const SECRET_CHARACTERS_MIN: usize = 16;

/// The reason why there is no secret.
pub(super) enum SecretError {
    /// It is wrong, which is reported.
    Wrong,
    /// Its file cannot be read, which is not reported yet: the problem, and its place.
    Unreadable(Span, String),
    /// It is not read, because the check is without secrets.
    Unchecked,
}

/// The origin of a secret.
enum Origin<'a> {
    Variable(&'a Located<String>),
    File(&'a Located<String>),
    Literal,
}

impl Compiler<'_> {
    /// Returns a route's secrets, and the keys for its scheme that they are. `span` is the route's,
    /// `index` its number, unless it is a copy of another route. Adds those that cannot be read to
    /// `unreadable`.
    pub(super) fn secrets(
        &self,
        field: &Field<Vec<Field<Reference>>>,
        span: Span,
        index: Option<usize>,
        scheme: Option<&Scheme>,
        unreadable: &mut Vec<String>,
    ) -> Option<(Vec<NamedSecret>, Vec<NamedKey>)> {
        let list = self.required(field, span, "route", "secrets")?;
        if list.value.is_empty() {
            self.report(
                Diagnostic::error(
                    list.span,
                    "a route without secrets would accept requests from anyone",
                )
                .help("add a reference, for example `secrets: [{env: WEBHOOK_SECRET}]`"),
            );
            return None;
        }
        let (mut secrets, mut keys) = (Vec::new(), Vec::new());
        let mut names: Vec<(Arc<str>, Span)> = Vec::new();
        let mut complete = true;
        for (position, reference) in list.value.iter().enumerate() {
            let Some(reference) = reference.given() else {
                complete = false;
                continue;
            };
            let secret = match self.secret(&reference.value, reference.span, position) {
                Ok(secret) => secret,
                Err(error) => {
                    complete &= self.tolerate(error, unreadable);
                    continue;
                }
            };
            let name = self.secret_name(reference, &secret.name, &mut names);
            self.warn_of_short(&secret.secret, reference.span);
            if let Some(index) = index {
                self.check_reuse(&secret.secret, reference.span, index);
            }
            let secret = NamedSecret { name, ..secret };
            let key = scheme.and_then(|scheme| self.key(&secret, scheme, reference.span));
            complete &= key.is_some();
            keys.extend(key);
            secrets.push(secret);
        }
        self.warn_of_expired(list);
        if !complete {
            return None;
        }
        if secrets.len() == list.value.len()
            && secrets.iter().all(|secret: &NamedSecret| {
                secret.expires.is_some_and(|end| end <= self.sources.now)
            })
        {
            self.report(Diagnostic::error(
                list.span,
                "all secrets of this route have expired",
            ));
        }
        if secrets.len() > SECRETS_MANY {
            let warning = Diagnostic::warning(
                list.span,
                format!("this route has {} secrets", secrets.len()),
            );
            self.report(warning.help(
                "each costs every request another hash of its body; remove those that no sender \
                 uses any more",
            ));
        }
        Some((secrets, keys))
    }

    /// Returns a route's secrets as they are written, without making keys of them.
    pub(super) fn named_secrets(
        &self,
        field: &Field<Vec<Field<Reference>>>,
        span: Span,
    ) -> Option<Vec<NamedSecret>> {
        let list = self.required(field, span, "route", "secrets")?;
        let mut names = Vec::new();
        let mut secrets = Vec::new();
        for (position, reference) in list.value.iter().enumerate() {
            let reference = reference.given()?;
            let secret = self.secret(&reference.value, reference.span, position);
            let secret = secret.map_err(|error| self.report_secret(error)).ok()?;
            self.warn_of_short(&secret.secret, reference.span);
            secrets.push(NamedSecret {
                name: self.secret_name(reference, &secret.name, &mut names),
                ..secret
            });
        }
        Some(secrets)
    }

    pub(super) fn key(
        &self,
        secret: &NamedSecret,
        scheme: &Scheme,
        span: Span,
    ) -> Option<NamedKey> {
        if scheme.is_prefix_missing(&secret.secret) {
            let [first, second] = [0, 1].map(|index| &*scheme.formats[index].key.prefix);
            let warning = Diagnostic::warning(
                span,
                format!("the secret starts with neither `{first}` nor `{second}`"),
            );
            let warning = warning.label(format!("it is used as a `{first}` secret"));
            self.report(warning.help(
                "copy all of it, as the sender shows it; if this is a public key, anyone who knows \
                 it could sign",
            ));
        }
        match secret.for_scheme(scheme) {
            Ok(key) => Some(key),
            Err(error) => {
                let help = match error {
                    KeyError::NotBase64
                    | KeyError::NotHex
                    | KeyError::Empty
                    | KeyError::NotPublicKey
                    | KeyError::WeakPublicKey => {
                        "copy all of it, as the sender shows it; with a custom scheme, \
                         `secret_encoding` and `strip_prefix` describe its form"
                    }
                    KeyError::PrivateKey | KeyError::NotPrivateKey => {
                        "use the public key; the sender shows it beside the private key"
                    }
                };
                self.report(Diagnostic::error(span, error.to_string()).help(help));
                None
            }
        }
    }

    fn warn_of_expired(&self, list: &Located<Vec<Field<Reference>>>) {
        for reference in list.value.iter().filter_map(Field::value) {
            if let Some(end) = reference
                .expires
                .given()
                .filter(|end| end.value.0 <= self.sources.now)
            {
                let warning = Diagnostic::warning(end.span, "this secret has expired");
                self.report(warning.help("it no longer verifies any request; remove it"));
            }
        }
    }

    /// Returns an admin token, or `Ok(None)` if the check is without secrets.
    pub(super) fn token(&self, reference: &Located<Reference>) -> Result<Option<NamedSecret>, ()> {
        let token = self.sole_secret(reference)?;
        if let Some(token) = &token {
            self.warn_of_short(&token.secret, reference.span);
        }
        Ok(token)
    }

    /// Returns a route's verify token, or `None` if it is wrong. Adds it to `unreadable` if it
    /// cannot be read.
    pub(super) fn verify_token(
        &self,
        reference: &Located<Reference>,
        unreadable: &mut Vec<String>,
    ) -> Result<Option<NamedSecret>, ()> {
        match self.secret(&reference.value, reference.span, 0) {
            Ok(token) => {
                self.check_expired(&token, reference.span);
                self.warn_of_short(&token.secret, reference.span);
                Ok(Some(token))
            }
            Err(error) => {
                if self.tolerate(error, unreadable) {
                    Ok(None)
                } else {
                    Err(())
                }
            }
        }
    }

    /// Returns the secret of a header. Adds one that cannot be read to `unreadable`.
    pub(super) fn header_secret(
        &self,
        reference: &Reference,
        span: Span,
        unreadable: &mut Vec<String>,
    ) -> Option<Secret> {
        let name = reference.name.given().map(|name| (name.span, "name"));
        let expires = reference.expires.given().map(|end| (end.span, "expires"));
        for (span, key) in name.into_iter().chain(expires) {
            let message = format!("`{key}` has no effect on a header");
            self.report(Diagnostic::warning(span, message).help("remove it"));
        }
        match self.secret(reference, span, 0) {
            Ok(secret) => Some(secret.secret),
            Err(error) => {
                self.tolerate(error, unreadable);
                None
            }
        }
    }

    /// Reports a secret that takes its route off line, and adds it to `unreadable`. Returns `false`
    /// if it refuses the configuration instead.
    fn tolerate(&self, error: SecretError, unreadable: &mut Vec<String>) -> bool {
        match (self.sources.unreadable, error) {
            (UnreadableSecret::Tolerate(_), SecretError::Unreadable(span, problem)) => {
                let warning = Diagnostic::warning(span, problem.clone());
                self.report(warning.help("the route is off line until the file is there"));
                unreadable.push(problem);
                true
            }
            (_, SecretError::Unchecked) => true,
            (_, SecretError::Unreadable(span, problem)) => {
                self.report(
                    Diagnostic::error(span, problem).help(if self.sources.strict_start {
                        "with `strict_start`, a start and a reload fail until the file is there"
                    } else {
                        "a start would serve the other routes, with this one off line; with \
                         `strict_start: true` it would fail"
                    }),
                );
                false
            }
            (_, error) => {
                self.report_secret(error);
                false
            }
        }
    }

    /// Reports a secret without which there is no configuration.
    fn report_secret(&self, error: SecretError) {
        if let SecretError::Unreadable(span, problem) = error {
            self.report(Diagnostic::error(span, problem));
        }
    }

    fn check_expired(&self, token: &NamedSecret, span: Span) {
        if token.expires.is_some_and(|end| end <= self.sources.now) {
            self.report(Diagnostic::error(span, "this token has expired"));
        }
    }

    /// Warns about a secret that can be guessed.
    fn warn_of_short(&self, secret: &Secret, span: Span) {
        let text = String::from_utf8_lossy(secret.expose().trim_ascii());
        if text.chars().count() < SECRET_CHARACTERS_MIN {
            let warning = Diagnostic::warning(
                span,
                format!("this secret is shorter than {SECRET_CHARACTERS_MIN} characters"),
            );
            self.report(warning.help(
                "it can be guessed; generate a long one, for example with `openssl rand -hex 32`",
            ));
        }
    }

    /// Returns a token, or the URL of a database; `Ok(None)` if the check is without secrets.
    pub(super) fn sole_secret(
        &self,
        reference: &Located<Reference>,
    ) -> Result<Option<NamedSecret>, ()> {
        match self.secret(&reference.value, reference.span, 0) {
            Ok(token) => {
                self.check_expired(&token, reference.span);
                Ok(Some(token))
            }
            Err(SecretError::Unchecked) => Ok(None),
            Err(error) => {
                self.report_secret(error);
                Err(())
            }
        }
    }

    /// As [`Self::leaves_unchecked`]. A name that may be the secret itself is not recorded.
    fn leaves_variable_unchecked(&self, name: &str) -> bool {
        let shown = if is_shown_variable(name) {
            name
        } else {
            "a variable whose name is not shown"
        };
        is_variable(name) && self.leaves_unchecked(shown)
    }

    /// Returns whether secrets are not read. If so, records the secret with this name as unchecked.
    pub(super) fn leaves_unchecked(&self, name: &str) -> bool {
        let is_unchecked = matches!(self.sources.unreadable, UnreadableSecret::Unchecked);
        if is_unchecked {
            let unchecked = &mut self.files.borrow_mut().unchecked;
            if !unchecked.iter().any(|other| other == name) {
                unchecked.push(name.into());
            }
        }
        is_unchecked
    }

    /// Returns the secret under its default name.
    fn secret(
        &self,
        reference: &Reference,
        span: Span,
        position: usize,
    ) -> Result<NamedSecret, SecretError> {
        let origin = self.origin(reference, span).ok_or(SecretError::Wrong)?;
        let (bytes, at, default_name) = match &origin {
            Origin::Variable(name) if self.leaves_variable_unchecked(&name.value) => {
                return Err(SecretError::Unchecked);
            }
            Origin::Variable(name) => (
                self.variable(name).ok_or(SecretError::Wrong)?,
                name.span,
                name.value.clone(),
            ),
            Origin::File(path)
                if has_secret_prefix(&path.value) && !self.sources.path(path).exists() =>
            {
                self.report(
                    Diagnostic::error(path.span, "this is not the path of a file")
                        .help("write the file's path here, never the secret"),
                );
                return Err(SecretError::Wrong);
            }
            Origin::File(path) if self.leaves_unchecked(&path.value) => {
                return Err(SecretError::Unchecked);
            }
            Origin::File(path) => (self.secret_file(path)?, path.span, file_name(&path.value)),
            Origin::Literal => {
                let literal = reference.value.given().ok_or(SecretError::Wrong)?;
                self.check_literal(literal)?;
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
                Diagnostic::error(at, "the secret is empty").help("anyone has an empty secret"),
            );
            return Err(SecretError::Wrong);
        };
        if let Origin::Literal = origin {
            self.report(
                Diagnostic::warning(at, "a secret is written in the configuration itself").help(
                    "anyone who can read this file has it; use `{env: NAME}` or `{file: PATH}`",
                ),
            );
        }
        if std::str::from_utf8(bytes).is_ok_and(mistakes::is_placeholder) {
            let warning = Diagnostic::warning(at, "the secret is still a placeholder");
            self.report(warning.help("anyone can guess it; replace it by the real one"));
        }
        for oddity in secret::oddities(bytes) {
            self.report(oddity_warning(oddity, at));
        }
        let expires = reference.expires.value().map(|end| end.0);
        Ok(NamedSecret {
            name: default_name.into(),
            secret,
            expires,
        })
    }

    /// Reports a secret that is written as the variable that has it. It would be used as it is, and
    /// is known to anyone who has seen an example.
    fn check_literal(&self, literal: &Located<Literal>) -> Result<(), SecretError> {
        let text = &literal.value.0;
        let name = match mistakes::inserted_variable(text) {
            Some(name) => name,
            None if mistakes::has_variable(text) => "",
            None => return Ok(()),
        };
        let error = Diagnostic::error(literal.span, "no variable is inserted into a secret");
        self.report(error.label(if is_shown_variable(name) {
            format!("write `{{env: {name}}}`")
        } else {
            "write `{env: NAME}`".to_owned()
        }));
        Err(SecretError::Wrong)
    }

    /// Returns the content of a secret's file, or the last one if it cannot be read any more.
    fn secret_file(&self, path: &Located<String>) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let at = self.sources.path(path);
        let kept = match self.sources.unreadable {
            UnreadableSecret::Tolerate(kept) => kept.get(&at),
            UnreadableSecret::Refuse | UnreadableSecret::Unchecked => None,
        };
        let content = match (self.read_file(path), kept) {
            (Ok(content), _) => content,
            (Err(problem), None) => return Err(SecretError::Unreadable(path.span, problem)),
            (Err(problem), Some(last)) => {
                let warning = Diagnostic::warning(path.span, problem);
                self.report(warning.help("what was read last stays in effect"));
                last.clone()
            }
        };
        let mut files = self.files.borrow_mut();
        files.secrets.insert(at, content.clone());
        Ok(content)
    }

    fn origin<'r>(&self, reference: &'r Reference, span: Span) -> Option<Origin<'r>> {
        let Reference {
            env, file, value, ..
        } = reference;
        let count = [!env.is_absent(), !file.is_absent(), !value.is_absent()]
            .into_iter()
            .filter(|&present| present)
            .count();
        if count == 0 && self.problems.any_error_in(span) {
            // The wrong key is reported.
            return None;
        }
        if count != 1 {
            let message = if count == 0 {
                "this reference names no secret"
            } else {
                "this reference names more than one secret"
            };
            self.report(
                Diagnostic::error(span, message)
                    .help("set exactly one of `env`, `file` and `value`"),
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
        if let Some(bare) = mistakes::inserted_variable(&name.value) {
            let error =
                Diagnostic::error(name.span, "this is not the name of an environment variable");
            self.report(error.label(if is_shown_variable(bare) {
                format!("write the bare name: `env: {bare}`")
            } else {
                "write the bare name, without `$`".to_owned()
            }));
            return None;
        }
        if !is_variable(&name.value) {
            self.report(
                Diagnostic::error(name.span, "this is not the name of an environment variable")
                    .help("write the variable's name here, never the secret"),
            );
            return None;
        }
        let value = (self.sources.env)(&name.value);
        if value.is_none() {
            let (message, help) = if is_shown_variable(&name.value) {
                (
                    format!("the environment variable `{}` is not set", name.value),
                    "set it in the gateway's environment, or use a file instead: `{file: PATH}`",
                )
            } else {
                (
                    "the environment variable that is named here is not set".into(),
                    "write the variable's name here, never the secret; the name is not shown, \
                     because it may be the secret",
                )
            };
            self.report(Diagnostic::error(name.span, message).help(help));
        }
        value.map(|value| Zeroizing::new(value.into_bytes()))
    }

    /// Returns the name of a secret, unique within its route.
    fn secret_name(
        &self,
        reference: &Located<Reference>,
        default: &str,
        names: &mut Vec<(Arc<str>, Span)>,
    ) -> Arc<str> {
        let name: Arc<str> = if let Some(given) = self.name(&reference.value.name) {
            if let Some((_, first)) = names.iter().find(|(name, _)| **name == *given.value) {
                let error =
                    Diagnostic::error(given.span, "another secret of this route has the same name");
                self.report(error.also(*first, "the first secret"));
            }
            given.value.into()
        } else {
            let copies = (2..).map(|copy| format!("{default}-{copy}"));
            let mut candidates = std::iter::once(default.to_string()).chain(copies);
            candidates
                .find(|name| names.iter().all(|(taken, _)| **taken != **name))
                .unwrap_or_default()
                .into()
        };
        names.push((Arc::clone(&name), reference.span));
        name
    }

    /// Warns about a secret that is used twice: an event for one route would verify on the other,
    /// too.
    fn check_reuse(&self, secret: &Secret, span: Span, route: usize) {
        let fingerprint = Sha256::digest(secret.expose()).into();
        let mut fingerprints = self.fingerprints.borrow_mut();
        let &mut (other, first) = fingerprints.entry(fingerprint).or_insert((route, span));
        if other == route && first == span {
            return;
        }
        let warning = if other == route {
            Diagnostic::warning(span, "this secret is listed twice").also(first, "the first entry")
        } else if first == span {
            Diagnostic::warning(span, "several routes have the same secret")
        } else {
            Diagnostic::warning(span, "another route has the same secret")
                .also(first, "the first route's")
        };
        let help = if other == route {
            "remove one of the two"
        } else {
            "an event for one of the routes verifies on the other, and can be replayed there"
        };
        self.report(warning.help(help));
    }
}

/// Returns the warning about something in a secret that its author neither sees nor means.
fn oddity_warning(oddity: Oddity, at: Span) -> Diagnostic {
    let (message, help) = match oddity {
        Oddity::Utf16 => (
            "the secret is UTF-16 text",
            "the key is every byte of it, zeros included; save it as UTF-8 without a byte order \
             mark",
        ),
        Oddity::ByteOrderMark => (
            "the secret begins with a byte order mark",
            "the mark is part of the key; save the secret as UTF-8 without one",
        ),
        Oddity::Invisible => (
            "the secret has invisible characters",
            "for example a zero-width or no-break space, which is part of the key; copy the \
             secret again, as plain text",
        ),
        Oddity::WhiteSpace => (
            "the secret begins or ends with white space",
            "the white space is part of the key; remove it if it is not meant",
        ),
    };
    Diagnostic::warning(at, message).help(help)
}

/// Returns the default name of a secret from a file, safe as a metric's label.
fn file_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.chars()
        .take(facts::NAME_MAX)
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect()
}

//! Environment variables in the configuration: `${NAME}` and `${NAME:-default}` in any text value.
//!
//! They are replaced after parsing, so a value cannot change the structure of the file. No message
//! has a value: a diagnostic shows the text as it is written.

use std::collections::HashMap;
use std::rc::Rc;

use super::diagnostics::{Diagnostic, Problems};
use super::mistakes::inserted_variable;
use super::redact::is_shown_variable;
use super::tree::{Entry, Node, Value};

/// The part of the file that is read.
#[derive(Clone, Copy)]
pub(super) enum Scope {
    Whole,
    /// Only the values of these keys of the file. A variable that is not set elsewhere is no
    /// problem, and hides its key.
    Keys(&'static [&'static str]),
}

impl Scope {
    /// Returns whether the value of this key of the file is read.
    pub(super) fn has(self, key: &str) -> bool {
        match self {
            Self::Whole => true,
            Self::Keys(keys) => keys.contains(&key),
        }
    }
}

/// A variable and the text that it stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inserted {
    pub value: String,
    /// The variable as it is written in the file.
    pub written: String,
}

#[derive(Debug, PartialEq, Eq)]
enum VariableError {
    /// The text after `${` is not the form of a variable.
    Form,
    /// The variable is not set, and there is no default.
    Unset(String),
}

/// Replaces the variables in all values below `root`.
pub(super) fn insert(
    root: &Rc<Node>,
    env: &dyn Fn(&str) -> Option<String>,
    scope: Scope,
    problems: &Problems,
) -> Rc<Node> {
    let Value::Mapping(entries) = &root.value else {
        return Rc::clone(root);
    };
    let mut corrected = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut inserter = Inserter {
            env,
            problems,
            done: HashMap::new(),
            errors: Vec::new(),
        };
        let key = entry.key.text().unwrap_or_default();
        let value = inserter.value(key, false, &entry.value);
        if !scope.has(key) && !inserter.errors.is_empty() {
            continue;
        }
        inserter.errors.into_iter().for_each(|it| problems.push(it));
        corrected.push(Entry {
            value,
            ..entry.clone()
        });
    }
    Rc::new(Node {
        span: root.span,
        value: Value::Mapping(corrected),
    })
}

struct Inserter<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    problems: &'a Problems,
    /// The nodes that were replaced, by address: every alias of an anchor is the same one.
    done: HashMap<*const Node, Rc<Node>>,
    errors: Vec<Diagnostic>,
}

impl Inserter<'_> {
    /// Returns the value of `key`. `named_by_user` is true if the user chose the key.
    fn value(&mut self, key: &str, named_by_user: bool, node: &Rc<Node>) -> Rc<Node> {
        let is_kept = match (key, node.text()) {
            _ if named_by_user => false,
            // The secret itself, which no one should have to guess.
            ("value", Some(_)) => true,
            // Most likely the variable itself is meant; `compile` says so.
            ("env", Some(text)) => inserted_variable(text).is_some(),
            _ => false,
        };
        if is_kept {
            Rc::clone(node)
        } else {
            self.node(key == "headers", node)
        }
    }

    fn node(&mut self, keys_are_named_by_user: bool, node: &Rc<Node>) -> Rc<Node> {
        let at = Rc::as_ptr(node);
        if let Some(done) = self.done.get(&at) {
            return Rc::clone(done);
        }
        let value = match &node.value {
            Value::Null => Value::Null,
            Value::Wrong => Value::Wrong,
            Value::Scalar { text, .. } => match replaced(text, self.env) {
                Ok(None) => return Rc::clone(node),
                Ok(Some((text, inserted))) => {
                    self.problems.set_inserted(node.span, inserted);
                    // In `{port: "${PORT}"}` the quotes are needed for the braces.
                    let (text, plain) = (text.into(), true);
                    Value::Scalar { text, plain }
                }
                Err(error) => {
                    self.errors.push(error.at(node));
                    Value::Wrong
                }
            },
            Value::Sequence(items) => {
                Value::Sequence(items.iter().map(|item| self.node(false, item)).collect())
            }
            Value::Mapping(entries) => {
                let entries = entries.iter().map(|entry| Entry {
                    value: self.value(
                        entry.key.text().unwrap_or_default(),
                        keys_are_named_by_user,
                        &entry.value,
                    ),
                    ..entry.clone()
                });
                Value::Mapping(entries.collect())
            }
        };
        let span = node.span;
        let done = Rc::new(Node { span, value });
        self.done.insert(at, Rc::clone(&done));
        done
    }
}

impl VariableError {
    fn at(self, node: &Node) -> Diagnostic {
        match self {
            Self::Form => Diagnostic::error(node.span, "this is not a variable")
                .label("write `${NAME}`, or `${NAME:-default}`")
                .help("for these characters themselves, write `$${`"),
            Self::Unset(name) if is_shown_variable(&name) => Diagnostic::error(
                node.span,
                format!("the environment variable `{name}` is not set"),
            )
            .help(format!("set it, or give a default: `${{{name}:-default}}`")),
            Self::Unset(_) => Diagnostic::error(
                node.span,
                "an environment variable that is named here is not set",
            )
            .help("set it, or give a default: `${NAME:-default}`"),
        }
    }
}

/// Returns `text` with its variables replaced, or `None` if it has none.
fn replaced(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<(String, Vec<Inserted>)>, VariableError> {
    let (mut new, mut inserted) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            new.push_str(before);
            new.push_str("${");
            rest = behind;
            continue;
        }
        let (variable, behind) = behind.split_once('}').ok_or(VariableError::Form)?;
        let (name, default) = match variable.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (variable, None),
        };
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(VariableError::Form);
        }
        let value = match (env(name), default) {
            (Some(value), None) => value,
            (Some(value), Some(_)) if !value.is_empty() => value,
            (_, Some(default)) => default.to_owned(),
            (None, None) => return Err(VariableError::Unset(name.to_owned())),
        };
        new.push_str(before);
        new.push_str(&value);
        inserted.push(Inserted {
            value,
            written: format!("${{{variable}}}"),
        });
        rest = behind;
    }
    new.push_str(rest);
    Ok((new != text).then_some((new, inserted)))
}

/// Returns a message with each inserted value replaced by its variable, wherever the message quotes
/// something.
pub(super) fn hide(text: &str, inserted: &[Inserted]) -> String {
    let parts = text.split('`').enumerate().map(|(index, part)| {
        let is_quoted = index % 2 == 1;
        let mut shown = part.to_owned();
        for Inserted { value, written } in inserted {
            if is_quoted && !value.is_empty() && !part.contains(written.as_str()) {
                shown = shown.replace(value.as_str(), written);
            }
        }
        shown
    });
    parts.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("app.internal".into()),
            "EMPTY" => Some(String::new()),
            "LOOP" => Some("${HOST}".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_once() {
        for (text, expected) in [
            ("http://${HOST}:${PORT:-3000}/", "http://app.internal:3000/"),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${UNSET:-}", ""),
            ("${UNSET:-a:-b}", "a:-b"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("${LOOP}", "${HOST}"),
        ] {
            let new = replaced(text, &env).unwrap().unwrap().0;
            assert_eq!(new, expected, "{text}");
        }
        for text in ["", "$HOST", "a{b}c", "{}$", "$$"] {
            assert_eq!(replaced(text, &env), Ok(None), "{text}");
        }
    }

    #[test]
    fn wrong_variables_are_errors() {
        for text in [
            "${",
            "${}",
            "${A B}",
            "${1}",
            "${HOST",
            "a ${-x}",
            "${HOST:?x}",
        ] {
            assert_eq!(replaced(text, &env), Err(VariableError::Form), "{text}");
        }
        let unset = VariableError::Unset("UNSET".into());
        assert_eq!(replaced("${HOST} ${UNSET}", &env), Err(unset));
    }

    #[test]
    fn messages_hide_inserted_values() {
        let inserted = [Inserted {
            value: "canary".into(),
            written: "${NAME}".into(),
        }];
        let shown = hide("cannot read `/a/canary/b`: canary", &inserted);
        assert_eq!(shown, "cannot read `/a/${NAME}/b`: canary");
    }
}

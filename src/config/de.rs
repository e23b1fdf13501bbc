//! From the tree to `raw`'s types, by way of serde, without stopping at the first error.
//!
//! A type of `raw` wraps what may be wrong on its own into [`Field`]. Where a value does not fit, that is noted with
//! its place and the [`Field`] is [`Field::Wrong`]; unknown keys are noted and skipped. Owns the messages about types
//! and keys. Does not know a single key of the format.

use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use super::diagnostics::{Diagnostic, Problems};
use super::tree::{Entry, Node, Span, Value};

/// What became of a key of a mapping, or of an item of a list.
#[derive(Default)]
pub(super) enum Field<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// The value does not fit. This was reported.
    Wrong,
    Given(Located<T>),
}

/// A value with its place in the file.
#[derive(Clone, Copy)]
pub(super) struct Located<T> {
    pub value: T,
    pub span: Span,
}

/// The pairs of a mapping whose keys are the user's own, in the order of the file.
pub(super) struct Pairs<T>(pub Vec<(Located<String>, Field<T>)>);

impl<T> Field<T> {
    pub fn given(&self) -> Option<&Located<T>> {
        match self {
            Self::Given(located) => Some(located),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub fn value(&self) -> Option<&T> {
        self.given().map(|located| &located.value)
    }

    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// `self`, or `fallback` where the key is not there.
    pub fn or<'a>(&'a self, fallback: &'a Self) -> &'a Self {
        if self.is_absent() { fallback } else { self }
    }
}

/// Reads `root` as a `T`. `None` when `root` as a whole does not fit, which is in `problems` then.
pub(super) fn from_tree<T: for<'de> Deserialize<'de>>(
    root: &Rc<Node>,
    problems: &Problems,
) -> Option<T> {
    let root = At {
        node: root,
        span: root.span,
        problems,
    };
    T::deserialize(root).map_err(|error| root.note(error)).ok()
}

/// The known word nearest to one that is not known, if any is near enough to have been meant.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, best) = known
        .iter()
        .map(|&candidate| {
            (
                strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .min_by_key(|&(distance, _)| distance)?;
    (distance <= best.len().max(word.len()) / 3).then_some(best)
}

/// A type asks [`At`] for itself together with its place under this name.
const LOCATED: &str = "$hookstile::located";

/// A type that is a mapping, but may be written as the one value of the key that follows this prefix.
const SHORTHAND: &str = "$hookstile::shorthand::";

/// The name under which [`At`] takes text for a mapping with this one key.
macro_rules! shorthand {
    ($key:literal) => {
        concat!("$hookstile::shorthand::", $key)
    };
}
pub(super) use shorthand;

/// A list, which may be written as what is in it when that is one.
pub(super) struct OneOrMore<T>(pub Vec<Field<T>>);

/// A type asks [`At`] under this name to take what is no list for one that holds it.
const ONE_OR_MORE: &str = "$hookstile::one_or_more";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = OneOrMore<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one or a list of them")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                list: D,
            ) -> Result<OneOrMore<T>, D::Error> {
                Vec::deserialize(list).map(OneOrMore)
            }
        }

        deserializer.deserialize_newtype_struct(ONE_OR_MORE, List(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
            type Value = Field<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value and its place")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut parts: A) -> Result<Field<T>, A::Error> {
                let start = parts.next_element()?.unwrap_or_default();
                let end = parts.next_element()?.unwrap_or_default();
                let value = parts.next_element()?;
                Ok(value.map_or(Field::Wrong, |value| {
                    Field::Given(Located {
                        value,
                        span: Span { start, end },
                    })
                }))
            }
        }

        deserializer.deserialize_newtype_struct(LOCATED, FieldVisitor(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for PairsVisitor<T> {
            type Value = Pairs<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs<T>, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, value)) = map.next_entry()? {
                    if let Field::Given(key) = key {
                        pairs.push((key, value));
                    }
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

/// A node on its way into a type.
#[derive(Clone, Copy)]
struct At<'a> {
    node: &'a Rc<Node>,
    /// Where to point: the node, or its key when the node takes no room.
    span: Span,
    problems: &'a Problems,
}

impl<'a> At<'a> {
    fn child(self, node: &'a Rc<Node>, key: Option<&Node>) -> Self {
        let span = match key {
            Some(key) if node.span.start == node.span.end => key.span,
            _ => node.span,
        };
        Self {
            node,
            span,
            problems: self.problems,
        }
    }

    /// Reports what the value's own type said against it.
    fn note(self, error: Mismatch) {
        let Mismatch { message, label } = error;
        let diagnostic = Diagnostic::error(self.span, message);
        self.problems.push(match label {
            Some(label) => diagnostic.label(label),
            None => diagnostic,
        });
    }

    fn expected(self, what: &str) -> Mismatch {
        let found = match &self.node.value {
            Value::Null => {
                return Mismatch {
                    message: "the value is missing".into(),
                    label: Some(format!("expected {what}")),
                };
            }
            Value::Scalar { .. } => "",
            Value::Sequence(_) => ", not a list",
            Value::Mapping(_) => ", not a mapping",
        };
        Mismatch {
            message: "this value has the wrong type".into(),
            label: Some(format!("expected {what}{found}")),
        }
    }

    fn text(self, what: &str) -> Result<&'a str, Mismatch> {
        self.node.text().ok_or_else(|| self.expected(what))
    }

    fn plain(self, what: &str) -> Result<&'a str, Mismatch> {
        match &self.node.value {
            Value::Scalar { text, plain: true } => Ok(text),
            Value::Scalar { plain: false, .. } => {
                Err(self.expected(&format!("{what}, without quotes")))
            }
            _ => Err(self.expected(what)),
        }
    }

    fn number<T: std::str::FromStr>(self) -> Result<T, Mismatch> {
        const WHOLE_NUMBER: &str = "a whole number";
        self.plain(WHOLE_NUMBER)?
            .parse()
            .map_err(|_| self.expected(WHOLE_NUMBER))
    }

    fn items(self) -> Result<&'a [Rc<Node>], Mismatch> {
        match &self.node.value {
            Value::Sequence(items) => Ok(items),
            _ => Err(self.expected("a list (`[…]`, or lines that begin with `- `)")),
        }
    }

    fn entries(self) -> Result<&'a [Entry], Mismatch> {
        match &self.node.value {
            Value::Mapping(entries) => Ok(entries),
            _ => Err(self.expected("a mapping (`key: value`)")),
        }
    }

    fn refuse_unknown(self, key: &Node, word: &str, fields: &[&str]) {
        let diagnostic = match nearest(word, fields) {
            _ if word == "<<" => Diagnostic::error(key.span, "merge keys (`<<`) are not supported")
                .help("what all routes have in common goes into `defaults:`"),
            Some(near) => {
                Diagnostic::error(key.span, format!("unknown key `{}`", word.escape_debug()))
                    .label(format!("did you mean `{near}`?"))
            }
            // In a secret's reference, a word unlike all keys may be the secret itself.
            None if fields.contains(&"env") => Diagnostic::error(key.span, "unknown key")
                .help(format!("known here: {}", listed(fields))),
            None => Diagnostic::error(key.span, format!("unknown key `{}`", word.escape_debug()))
                .help(format!("known here: {}", listed(fields))),
        };
        self.problems.push(diagnostic);
    }
}

fn listed(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Why a value does not fit. Its place is added by whoever asked for the value.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Mismatch {
    message: String,
    label: Option<String>,
}

impl de::Error for Mismatch {
    /// The first line says what is wrong, the second, where there is one, what to write.
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        match text.split_once('\n') {
            Some((message, label)) => Self {
                message: message.into(),
                label: Some(label.into()),
            },
            None => Self {
                message: text,
                label: None,
            },
        }
    }
}

macro_rules! deserialize_numbers {
    ($($method:ident => $visit:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            visitor.$visit(self.number()?)
        })*
    };
}

impl<'de> Deserializer<'de> for At<'_> {
    type Error = Mismatch;

    deserialize_numbers!(
        deserialize_u16 => visit_u16, deserialize_u32 => visit_u32, deserialize_u64 => visit_u64
    );

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        const BOOL: &str = "`true` or `false`";
        match self.plain(BOOL)? {
            "true" | "True" | "TRUE" => visitor.visit_bool(true),
            "false" | "False" | "FALSE" => visitor.visit_bool(false),
            _ => Err(self.expected(BOOL)),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        const NUMBER: &str = "a number";
        match self.plain(NUMBER)?.parse::<f64>() {
            Ok(number) if number.is_finite() => visitor.visit_f64(number),
            _ => Err(self.expected(NUMBER)),
        }
    }

    /// Text is taken as it stands in the file: `name: 007` is the three characters, and `on` is no truth value.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.node.text() {
            Some(text) => visitor.visit_str(text),
            None => Err(self.expected(&(&visitor as &dyn de::Expected).to_string())),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_seq(Items {
            items: self.items()?.iter(),
            list: self,
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_map(Entries {
            rest: self.entries()?.iter(),
            known: None,
            next: None,
            mapping: self,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_map(Entries {
            rest: self.entries()?.iter(),
            known: Some(fields),
            next: None,
            mapping: self,
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let one_of = format!("one of {}", listed(variants));
        let word = self.text(&one_of)?;
        if variants.contains(&word) {
            return visitor.visit_enum(word.into_deserializer());
        }
        let label = match nearest(word, variants) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected {one_of}"),
        };
        Err(Mismatch {
            message: "this is none of the possible values".into(),
            label: Some(label),
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        if name == LOCATED {
            return visitor.visit_seq(WithPlace { at: self, given: 0 });
        }
        if name == ONE_OR_MORE && !matches!(self.node.value, Value::Sequence(_)) {
            let list = Node {
                span: self.node.span,
                value: Value::Sequence(vec![Rc::clone(self.node)]),
            };
            return visitor.visit_newtype_struct(At {
                node: &Rc::new(list),
                ..self
            });
        }
        match (name.strip_prefix(SHORTHAND), self.node.text()) {
            (Some(key), Some(_)) => {
                let span = self.node.span;
                let key = Rc::new(Node {
                    span,
                    value: Value::Scalar {
                        text: key.into(),
                        plain: true,
                    },
                });
                let entry = Entry {
                    key,
                    value: Rc::clone(self.node),
                    refused: false,
                };
                let mapping = Rc::new(Node {
                    span,
                    value: Value::Mapping(vec![entry]),
                });
                visitor.visit_newtype_struct(At {
                    node: &mapping,
                    ..self
                })
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_some(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_unit()
    }

    /// Nothing in the format is of any type whatsoever; serde's own types fall back to this.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match &self.node.value {
            Value::Null => Err(self.expected("a value")),
            Value::Scalar { .. } => self.deserialize_str(visitor),
            Value::Sequence(_) => self.deserialize_seq(visitor),
            Value::Mapping(_) => self.deserialize_map(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 u8 f32 char bytes byte_buf unit unit_struct tuple tuple_struct
    }
}

/// What [`Field`] reads: the place, and the value unless it is wrong.
struct WithPlace<'a> {
    at: At<'a>,
    given: usize,
}

impl<'de> de::SeqAccess<'de> for WithPlace<'_> {
    type Error = Mismatch;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Mismatch> {
        self.given += 1;
        match self.given {
            1 => seed
                .deserialize(self.at.span.start.into_deserializer())
                .map(Some),
            2 => seed
                .deserialize(self.at.span.end.into_deserializer())
                .map(Some),
            _ => Ok(seed
                .deserialize(self.at)
                .map_err(|error| self.at.note(error))
                .ok()),
        }
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Rc<Node>>,
    list: At<'a>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Mismatch;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Mismatch> {
        self.items
            .next()
            .map(|item| seed.deserialize(self.list.child(item, None)))
            .transpose()
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, Entry>,
    /// The keys there are; `None` when they are the user's own.
    known: Option<&'static [&'static str]>,
    next: Option<&'a Entry>,
    mapping: At<'a>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Mismatch;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Mismatch> {
        for entry in self.rest.by_ref() {
            let Some(word) = entry.key.text().filter(|_| !entry.refused) else {
                continue;
            };
            if let Some(fields) = self.known
                && !fields.contains(&word)
            {
                self.mapping.refuse_unknown(&entry.key, word, fields);
                continue;
            }
            self.next = Some(entry);
            return seed
                .deserialize(self.mapping.child(&entry.key, None))
                .map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Mismatch> {
        match self.next.take() {
            Some(entry) => seed.deserialize(self.mapping.child(&entry.value, Some(&entry.key))),
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}

/// In the schema a [`Field`] is what it holds.
impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for Pairs<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pairs".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        schemars::json_schema!({"type": "object", "additionalProperties": value})
    }
}

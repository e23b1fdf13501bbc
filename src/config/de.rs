//! Deserialises the tree into `raw`'s types with serde, without stopping at the first error.
//!
//! A type of `raw` wraps each value that may be wrong on its own in a [`Field`]. If a value does
//! not fit, the problem is reported with its location and the [`Field`] is [`Field::Wrong`];
//! unknown keys are reported and skipped. Owns the messages about types and keys; `mistakes` and
//! `placement` know the keys of the format.

use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use super::diagnostics::{Diagnostic, Problems};
use super::mistakes::{self, KeyAdvice};
use super::placement;
use super::tree::{Entry, Node, Span, Value};

/// The value of a key of a mapping, or of an item of a list.
#[derive(Default)]
pub(super) enum Field<T> {
    /// The key is absent.
    #[default]
    Absent,
    /// The value does not fit. This has been reported.
    Wrong,
    Given(Located<T>),
}

/// A value with its location in the file.
#[derive(Clone, Copy)]
pub(super) struct Located<T> {
    pub value: T,
    pub span: Span,
}

/// The entries of a mapping whose keys the user chooses, in the order of the file.
pub(super) struct Pairs<T>(pub Vec<(Located<String>, Field<T>)>);

impl<T> Field<T> {
    pub(super) fn given(&self) -> Option<&Located<T>> {
        match self {
            Self::Given(located) => Some(located),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(super) fn value(&self) -> Option<&T> {
        self.given().map(|located| &located.value)
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Returns `self`, or `fallback` if the key is absent.
    pub(super) fn or<'a>(&'a self, fallback: &'a Self) -> &'a Self {
        if self.is_absent() { fallback } else { self }
    }
}

/// Deserialises `root` as a `T`. Returns `None` and reports it if `root` as a whole does not fit.
pub(super) fn from_tree<T: for<'de> Deserialize<'de>>(
    root: &Rc<Node>,
    problems: &Problems,
) -> Option<T> {
    let root = NodeDeserializer {
        node: root,
        span: root.span,
        key: None,
        problems,
    };
    T::deserialize(root)
        .map_err(|error| root.report(error))
        .ok()
}

/// Returns the known word nearest to an unknown one, if one is near enough to be meant.
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

/// Returns the known word that has one letter more, less or other than an unknown one.
fn misspelt<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    nearest(word, known).filter(|near| strsim::damerau_levenshtein(word, near) == 1)
}

/// The name under which a type asks [`NodeDeserializer`] for a value together with its location.
const LOCATED: &str = "$hookstile::located";

/// The prefix of the name of a mapping that may be written as the value of one key. The key
/// follows.
const SHORTHAND: &str = "$hookstile::shorthand::";

/// Makes the name under which [`NodeDeserializer`] accepts text, or a list, for a mapping with this
/// one key.
macro_rules! shorthand {
    ($key:literal) => {
        concat!("$hookstile::shorthand::", $key)
    };
}
pub(super) use shorthand;

/// A list. A list of one item may be written as that item.
pub(super) struct OneOrMore<T>(pub Vec<Field<T>>);

/// The name under which a type asks [`NodeDeserializer`] for text as text, and for anything else as
/// a mapping.
pub(super) const TEXT_OR_MAPPING: &str = "$hookstile::text_or_mapping";

/// The name under which a type asks [`NodeDeserializer`] to accept a single item for a list.
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
                f.write_str("a value and its location")
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

/// A deserializer of one node.
#[derive(Clone, Copy)]
struct NodeDeserializer<'a> {
    node: &'a Rc<Node>,
    /// The location for messages: the node's, or its key's if the node is empty.
    span: Span,
    /// The key of the format whose value, or an item of whose list, the node is.
    key: Option<&'a str>,
    problems: &'a Problems,
}

impl<'a> NodeDeserializer<'a> {
    fn child(self, node: &'a Rc<Node>, key: &'a Node) -> Self {
        let span = if node.span.start == node.span.end {
            key.span
        } else {
            node.span
        };
        Self {
            node,
            span,
            key: key.text(),
            problems: self.problems,
        }
    }

    fn item(self, node: &'a Rc<Node>) -> Self {
        Self {
            node,
            span: node.span,
            ..self
        }
    }

    /// Reports that the value does not fit.
    fn report(self, error: Mismatch) {
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
            Value::Scalar { .. } | Value::Wrong => "",
            Value::Sequence(_) => ", not a list",
            Value::Mapping(_) => ", not a mapping",
        };
        Mismatch {
            message: "this value has the wrong type".into(),
            label: Some(format!("expected {what}{found}")),
        }
    }

    /// Says how the key of a list or a mapping is written, if that is known.
    fn expected_shape(self, what: &str, example: Option<String>) -> Mismatch {
        let expected = self.expected(what);
        match (&self.node.value, self.key.zip(example)) {
            (Value::Null, _) | (_, None) => expected,
            (_, Some((key, example))) => Mismatch {
                message: format!("`{key}` is not written like this"),
                label: Some(format!("write {example}")),
            },
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
        let text = self.plain(WHOLE_NUMBER)?;
        text.parse().map_err(|_| {
            let digits = text.replace(['_', ',', '\''], "");
            if digits.parse::<T>().is_ok() {
                self.expected(&format!("{WHOLE_NUMBER} without separators: `{digits}`"))
            } else {
                self.expected(WHOLE_NUMBER)
            }
        })
    }

    fn items(self) -> Result<&'a [Rc<Node>], Mismatch> {
        match &self.node.value {
            Value::Sequence(items) => Ok(items),
            _ => {
                let example = self.key.and_then(mistakes::example).map(ToOwned::to_owned);
                let what = "a list (`[…]`, or lines that begin with `- `)";
                Err(self.expected_shape(what, example))
            }
        }
    }

    /// Returns the entries of a mapping of this type.
    fn entries(self, mapping: &str) -> Result<&'a [Entry], Mismatch> {
        match &self.node.value {
            Value::Mapping(entries) => Ok(entries),
            _ => {
                let example = self.key.and_then(|key| match mistakes::example(key) {
                    Some(example) => Some(example.to_owned()),
                    None if mapping == REFERENCE => {
                        Some(format!("`{key}: {{env: NAME}}`, or `{{file: PATH}}`"))
                    }
                    None => None,
                });
                let what = match mapping {
                    REFERENCE => "text, or a reference: `{env: NAME}` or `{file: PATH}`",
                    _ => "a mapping (`key: value`)",
                };
                Err(self.expected_shape(what, example))
            }
        }
    }

    /// Reports a key that a mapping of this type does not have.
    fn report_unknown_key(self, mapping: &str, key: &Node, word: &str, fields: &[&str]) {
        let unknown =
            || Diagnostic::error(key.span, format!("unknown key `{}`", word.escape_debug()));
        let advice = mistakes::advice_for_key(mapping, word);
        let near = misspelt(word, fields).filter(|_| advice.is_none());
        let home = || placement::home(mapping, word);
        self.problems.push(if word == "<<" {
            Diagnostic::error(key.span, "merge keys (`<<`) are not supported")
                .help("put keys that all routes share into `defaults`")
        } else if let Some(KeyAdvice { key, text }) = advice {
            let is_first = self.problems.set_meant(self.node.span, key);
            if !is_first && !key.is_empty() {
                // `host` and `port` are one mistake.
                return;
            }
            unknown().label(text)
        } else if let Some((near, None)) = near
            .or_else(|| nearest(word, fields))
            .map(|it| (it, near.map_or_else(home, |_| None)))
        {
            self.problems.set_meant(self.node.span, near);
            unknown().label(format!("did you mean `{near}`?"))
        } else if let Some(home) = home() {
            unknown().label(format!("it belongs below `{home}`"))
        } else if mapping == REFERENCE {
            // In a reference to a secret, a word unlike any key may be the secret itself.
            Diagnostic::error(key.span, "unknown key")
                .label("write `{env: NAME}`, or `{file: PATH}`")
                .help(format!("the keys are: {}", listed(fields)))
        } else {
            unknown().help(format!("the keys are: {}", listed(fields)))
        });
    }
}

/// The type in `raw` of a reference to a secret.
const REFERENCE: &str = "Reference";

fn listed(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The reason that a value does not fit. The caller adds the location.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Mismatch {
    message: String,
    label: Option<String>,
}

impl de::Error for Mismatch {
    /// Splits the text: its first line says what is wrong, an optional second one what to write.
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

impl<'de> Deserializer<'de> for NodeDeserializer<'_> {
    type Error = Mismatch;

    deserialize_numbers!(
        deserialize_u16 => visit_u16, deserialize_u32 => visit_u32, deserialize_u64 => visit_u64
    );

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        const BOOL: &str = "`true` or `false`";
        match self.plain(BOOL)? {
            "true" | "True" | "TRUE" => visitor.visit_bool(true),
            "false" | "False" | "FALSE" => visitor.visit_bool(false),
            word => Err(match mistakes::meant_bool(word) {
                Some(meant) => self.expected(&format!("`{meant}`")),
                None => self.expected(BOOL),
            }),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        const NUMBER: &str = "a number";
        match self.plain(NUMBER)?.parse::<f64>() {
            Ok(number) if number.is_finite() => visitor.visit_f64(number),
            _ => Err(self.expected(NUMBER)),
        }
    }

    /// Returns text as it is in the file: `name: 007` is three characters, and `on` is not a
    /// boolean.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.node.text() {
            Some(text) => visitor.visit_str(text),
            None if self.key == Some("url") && matches!(self.node.value, Value::Sequence(_)) => {
                Err(Mismatch {
                    message: "a route has one upstream".into(),
                    label: Some("write one URL; for each further application, add a route".into()),
                })
            }
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
            rest: self.entries("")?.iter(),
            known: None,
            next: None,
            mapping: self,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_map(Entries {
            rest: self.entries(name)?.iter(),
            known: Some((name, fields)),
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
        let label = match mistakes::meant_value(word, variants).or_else(|| nearest(word, variants))
        {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected {one_of}"),
        };
        Err(Mismatch {
            message: "this is not one of the possible values".into(),
            label: Some(label),
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        if name == LOCATED {
            return visitor.visit_seq(WithLocation {
                node: self,
                next: 0,
            });
        }
        if name == ONE_OR_MORE && !matches!(self.node.value, Value::Sequence(_)) {
            let list = Node {
                span: self.node.span,
                value: Value::Sequence(vec![Rc::clone(self.node)]),
            };
            return visitor.visit_newtype_struct(NodeDeserializer {
                node: &Rc::new(list),
                ..self
            });
        }
        if name == TEXT_OR_MAPPING
            && let Some(text) = self.node.text()
        {
            return visitor.visit_str(text);
        }
        let is_mapping = matches!(self.node.value, Value::Mapping(_) | Value::Null);
        match name.strip_prefix(SHORTHAND) {
            Some(key) if !is_mapping => {
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
                    rejected: false,
                };
                let mapping = Rc::new(Node {
                    span,
                    value: Value::Mapping(vec![entry]),
                });
                visitor.visit_newtype_struct(NodeDeserializer {
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

    /// Deserialises any type. No key of the format needs this, but serde's own types fall back to
    /// it.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match &self.node.value {
            Value::Null | Value::Wrong => Err(self.expected("a value")),
            Value::Scalar { .. } => self.deserialize_str(visitor),
            Value::Sequence(_) => self.deserialize_seq(visitor),
            Value::Mapping(_) => self.deserialize_map(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 u8 f32 char bytes byte_buf unit unit_struct tuple tuple_struct
    }
}

/// The sequence that [`Field`] reads: the location's start and end, and the value unless it is
/// wrong.
struct WithLocation<'a> {
    node: NodeDeserializer<'a>,
    next: usize,
}

impl<'de> de::SeqAccess<'de> for WithLocation<'_> {
    type Error = Mismatch;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Mismatch> {
        self.next += 1;
        match self.next {
            1 => seed
                .deserialize(self.node.span.start.into_deserializer())
                .map(Some),
            2 => seed
                .deserialize(self.node.span.end.into_deserializer())
                .map(Some),
            _ if matches!(self.node.node.value, Value::Wrong) => Ok(None),
            _ => Ok(seed
                .deserialize(self.node)
                .map_err(|error| self.node.report(error))
                .ok()),
        }
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Rc<Node>>,
    list: NodeDeserializer<'a>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Mismatch;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Mismatch> {
        self.items
            .next()
            .map(|item| seed.deserialize(self.list.item(item)))
            .transpose()
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, Entry>,
    /// The mapping's type and its keys; `None` if the user chooses the keys.
    known: Option<(&'static str, &'static [&'static str])>,
    next: Option<&'a Entry>,
    mapping: NodeDeserializer<'a>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Mismatch;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Mismatch> {
        for entry in self.rest.by_ref() {
            let Some(word) = entry.key.text().filter(|_| !entry.rejected) else {
                continue;
            };
            if let Some((name, fields)) = self.known
                && !fields.contains(&word)
            {
                self.mapping
                    .report_unknown_key(name, &entry.key, word, fields);
                continue;
            }
            self.next = Some(entry);
            return seed.deserialize(self.mapping.item(&entry.key)).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Mismatch> {
        match self.next.take() {
            Some(entry) => {
                let value = self.mapping.child(&entry.value, &entry.key);
                // A key that the user chose says nothing about its value.
                let key = value.key.filter(|_| self.known.is_some());
                seed.deserialize(NodeDeserializer { key, ..value })
            }
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}

/// Describes a [`Field`] as the value in it.
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

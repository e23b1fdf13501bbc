//! The statements of a transaction with their values, and as bytes. Pure.
//!
//! The texts stand with their values, so that a log can be executed by a later version of the program,
//! too: each text once, and a statement names it by its number. Numbers are little-endian:
//!
//! | part | bytes |
//! | --- | --- |
//! | the texts | their number (2), then each with its length before it (4) |
//! | each statement | the number of its text (2), the number of its values (2), the values |
//! | a value | its type (1): 0 null, 1 integer (8), 2 real (8), 3 text, 4 blob, both with the length before it (4) |

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ToSql};

use super::super::ledger_file::take_array;

/// The statements of a transaction.
#[derive(Default)]
pub(in super::super) struct Statements {
    texts: Vec<&'static str>,
    /// The statements as bytes.
    statements: Vec<u8>,
    is_too_large: bool,
}

/// A statement to execute again.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Statement {
    pub text: String,
    pub values: Vec<Value>,
}

impl Statements {
    /// The limit of all statements, in bytes. The rest of a record is for rows of the ledger.
    pub(in super::super) const BYTES_MAX: usize = 160 << 10;

    /// Adds a statement.
    pub(in super::super) fn push(
        &mut self,
        text: &'static str,
        values: &[&dyn ToSql],
    ) -> rusqlite::Result<()> {
        if self.is_too_large {
            return Ok(());
        }
        // Equal texts of two places in the program may be there twice.
        let known = self
            .texts
            .iter()
            .position(|known| std::ptr::eq(*known, text));
        let number = known.unwrap_or_else(|| {
            self.texts.push(text);
            self.texts.len() - 1
        });
        push_short(&mut self.statements, number);
        push_short(&mut self.statements, values.len());
        for value in values {
            match value.to_sql()? {
                ToSqlOutput::Borrowed(value) => self.push_value(value),
                ToSqlOutput::Owned(value) => self.push_value((&value).into()),
                // The kinds that only other features of the crate have.
                _ => self.is_too_large = true,
            }
        }
        let texts: usize = self.texts.iter().map(|text| 4 + text.len()).sum();
        if 2 + texts + self.statements.len() > Self::BYTES_MAX {
            self.is_too_large = true;
            self.statements = Vec::new();
        }
        Ok(())
    }

    fn push_value(&mut self, value: ValueRef<'_>) {
        let bytes = &mut self.statements;
        match value {
            ValueRef::Null => bytes.push(0),
            ValueRef::Integer(integer) => {
                bytes.push(1);
                bytes.extend(integer.to_le_bytes());
            }
            ValueRef::Real(real) => {
                bytes.push(2);
                bytes.extend(real.to_le_bytes());
            }
            ValueRef::Text(text) => {
                bytes.push(3);
                push_bytes(bytes, text);
            }
            ValueRef::Blob(blob) => {
                bytes.push(4);
                push_bytes(bytes, blob);
            }
        }
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns the statements as bytes; `None` if they are too large for the log.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        if self.is_too_large {
            return None;
        }
        let mut bytes = Vec::with_capacity(4096);
        push_short(&mut bytes, self.texts.len());
        for text in &self.texts {
            push_bytes(&mut bytes, text.as_bytes());
        }
        bytes.extend_from_slice(&self.statements);
        Some(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Vec<Statement>> {
        let mut rest = bytes;
        let mut texts = Vec::new();
        for _ in 0..take_short(&mut rest)? {
            let text = take_bytes(&mut rest)?.to_vec();
            texts.push(String::from_utf8(text).ok()?);
        }
        let mut statements = Vec::new();
        while !rest.is_empty() {
            let (text, values) = take_statement(&mut rest)?;
            let text = texts.get(text)?.clone();
            let values = values.into_iter().map(|value| value.try_into().ok());
            let values = values.collect::<Option<_>>()?;
            statements.push(Statement { text, values });
        }
        Some(statements)
    }

    /// Executes the statements, which must not be too large.
    pub(in super::super) fn execute(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut rest = &self.statements[..];
        while let Some((text, values)) = take_statement(&mut rest) {
            execute(connection, self.texts[text], values)?;
        }
        Ok(())
    }
}

impl Statement {
    pub(in super::super) fn execute(&self, connection: &Connection) -> rusqlite::Result<()> {
        execute(connection, &self.text, self.values.iter().map(Into::into))
    }
}

/// Executes a statement to its end, whether it returns rows or not.
fn execute<'v>(
    connection: &Connection,
    text: &str,
    values: impl IntoIterator<Item = ValueRef<'v>>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(text)?;
    let mut bound = 0;
    for value in values {
        bound += 1;
        statement.raw_bind_parameter(bound, ToSqlOutput::Borrowed(value))?;
    }
    let expected = statement.parameter_count();
    if bound != expected {
        return Err(rusqlite::Error::InvalidParameterCount(bound, expected));
    }
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    Ok(())
}

/// Takes a statement: the number of its text, and its values. Returns `None` at the end, or if there is
/// none.
fn take_statement<'b>(rest: &mut &'b [u8]) -> Option<(usize, Vec<ValueRef<'b>>)> {
    let text = take_short(rest)?;
    let values = (0..take_short(rest)?).map(|_| take_value(rest));
    Some((text, values.collect::<Option<_>>()?))
}

/// Numbers of texts and values are far below the limit of two bytes.
fn push_short(bytes: &mut Vec<u8>, number: usize) {
    bytes.extend(u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes());
}

fn push_bytes(bytes: &mut Vec<u8>, content: &[u8]) {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_le_bytes());
    bytes.extend_from_slice(content);
}

fn take_short(rest: &mut &[u8]) -> Option<usize> {
    Some(u16::from_le_bytes(take_array(rest)?).into())
}

fn take_bytes<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(u32::from_le_bytes(take_array(rest)?)).ok()?;
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

fn take_value<'b>(rest: &mut &'b [u8]) -> Option<ValueRef<'b>> {
    let [kind] = take_array(rest)?;
    Some(match kind {
        0 => ValueRef::Null,
        1 => ValueRef::Integer(i64::from_le_bytes(take_array(rest)?)),
        2 => ValueRef::Real(f64::from_le_bytes(take_array(rest)?)),
        3 => ValueRef::Text(take_bytes(rest)?),
        4 => ValueRef::Blob(take_bytes(rest)?),
        _ => return None,
    })
}

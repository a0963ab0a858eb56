//! The bytes before the tensors of a GGUF file: a cursor that knows how many bytes are left, so that no count in the
//! file is believed before the bytes for it are there. `super::Gguf::open` calls it.

use super::GgufError;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// The value of a metadata field.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Any float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// Values of one type.
    List(Vec<Value>),
}

/// Numbers of the value types in the file.
const STRING: u32 = 8;
const ARRAY: u32 = 9;

pub(super) struct Cursor<'a> {
    path: &'a Path,
    file: BufReader<&'a File>,
    at: u64,
    len: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, file: &'a File, len: u64) -> Self {
        Self { path, file: BufReader::new(file), at: 0, len }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn fail<T>(
        &self,
        what: &str,
        asked: impl ToString,
        allowed: impl ToString,
    ) -> Result<T, GgufError> {
        let (asked, allowed) = (asked.to_string(), allowed.to_string());
        Err(GgufError::Format {
            path: self.path.into(),
            at: self.at,
            what: what.into(),
            asked,
            allowed,
        })
    }

    /// Refuses a count of things of at least `each` bytes for which the file has no room.
    fn room(&self, what: &str, count: u64, each: u64) -> Result<(), GgufError> {
        let most = (self.len - self.at) / each;
        if count <= most {
            return Ok(());
        }
        self.fail(what, count, format!("at most {most}, by the file's {} bytes", self.len))
    }

    pub(super) fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        self.room(what, N as u64, 1)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufError> {
        self.file
            .read_exact(bytes)
            .map_err(|source| GgufError::Read { path: self.path.into(), source })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    /// A count of things of at least `each` bytes.
    pub(super) fn count(&mut self, what: &str, each: u64) -> Result<usize, GgufError> {
        let count = self.u64(what)?;
        self.room(what, count, each)?;
        usize::try_from(count).or_else(|_| self.fail(what, count, usize::MAX))
    }

    pub(super) fn text(&mut self, what: &str) -> Result<String, GgufError> {
        let mut bytes = vec![0; self.count(&format!("length of {what}"), 1)?];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).or_else(|e| self.fail(what, e, "UTF-8"))
    }

    pub(super) fn value(&mut self, field: &str) -> Result<Value, GgufError> {
        let kind = self.u32(&format!("type of {field}"))?;
        if kind != ARRAY {
            return self.scalar(field, kind);
        }
        let kind = self.u32(&format!("element type of {field}"))?;
        let each = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            STRING | 10..=12 => 8,
            _ => return self.fail(&format!("element type of {field}"), kind, "0 to 8, 10 to 12"),
        };
        let count = self.count(&format!("elements of {field}"), each)?;
        (0..count).map(|_| self.scalar(field, kind)).collect::<Result<_, _>>().map(Value::List)
    }

    fn scalar(&mut self, field: &str, kind: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.bytes(field)?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.bytes(field)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.bytes(field)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.bytes(field)?).into()),
            4 => Value::Unsigned(self.u32(field)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.bytes(field)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes(field)?).into()),
            7 => match self.bytes::<1>(field)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return self.fail(field, other, "0 or 1"),
            },
            STRING => Value::Text(self.text(field)?),
            10 => Value::Unsigned(self.u64(field)?),
            11 => Value::Signed(i64::from_le_bytes(self.bytes(field)?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes(field)?)),
            _ => return self.fail(&format!("type of {field}"), kind, "0 to 12"),
        })
    }
}

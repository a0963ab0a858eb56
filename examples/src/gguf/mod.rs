//! A small reader of GGUF, the format of `llama.cpp`: named fields, then named tensors, in one file. [`crate::llama`]
//! calls it. The file is hostile: every count is held against the bytes that are there, and whatever is wrong is a
//! [`GgufError`]. Tensors are read and made f32 a piece at a time, so that no copy of the file lies in memory.

mod blocks;
mod error;
mod read;
mod tokens;

pub use blocks::Stored;
pub use error::GgufError;
pub use read::Value;
pub use tokens::{CHATML, Spelling, Vocabulary};

use read::Cursor;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Tensors are as rows of a matrix; the format allows four dims.
const MAX_DIMS: u32 = 4;

/// Bytes of a tensor that are read at once.
const PIECE: usize = 1 << 20;

/// An open file whose fields and tensor table are sound.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    fields: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Info>,
}

/// Where a tensor lies and what it is.
#[derive(Clone, Debug)]
pub struct Info {
    stored: Stored,
    /// Outermost first.
    shape: Vec<usize>,
    /// From the file's start.
    offset: u64,
}

impl Gguf {
    /// Reads the file's fields and the table of its tensors, and checks that every tensor lies inside the file.
    ///
    /// # Errors
    /// `Read`, or `Format` with where and what.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let unread = |source| GgufError::Read { path: path.into(), source };
        let file = File::open(path).map_err(unread)?;
        let len = file.metadata().map_err(unread)?.len();
        let mut at = Cursor::new(path, &file, len);
        let magic = at.bytes::<4>("magic")?;
        if magic != *b"GGUF" {
            return at.fail("magic", magic.escape_ascii(), "GGUF");
        }
        let version = at.u32("version")?;
        if !(2..=3).contains(&version) {
            return at.fail("version", version, "2 or 3");
        }
        // The least that an entry takes: its name's length, its type, and one byte or dim.
        let (tensors, fields) = (at.count("tensors", 24)?, at.count("fields", 13)?);
        let fields = read_fields(&mut at, fields)?;
        let tensors = read_tensors(&mut at, tensors, &fields, len)?;
        Ok(Self { path: path.into(), file, fields, tensors })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// A field that `take` accepts; `allowed` says what that is.
    ///
    /// # Errors
    /// `Field`, also where it is missing.
    pub fn need<'a, T>(
        &'a self,
        name: &str,
        allowed: &str,
        take: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, GgufError> {
        let value = self.field(name);
        value.and_then(take).ok_or_else(|| self.wrong(name, value, allowed))
    }

    /// The error of a field.
    fn wrong(&self, name: &str, value: Option<&Value>, allowed: &str) -> GgufError {
        let asked: String = match value {
            None => "missing".into(),
            Some(Value::List(list)) => format!("a list of {}", list.len()),
            Some(value) => format!("{value:?}").chars().take(80).collect(),
        };
        let (path, field) = (self.path.clone(), name.into());
        GgufError::Field { path, field, asked, allowed: allowed.into() }
    }

    /// A whole number in `allowed`.
    ///
    /// # Errors
    /// `Field`.
    pub fn size(
        &self,
        name: &str,
        allowed: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, GgufError> {
        let text = format!("{} to {}", allowed.start(), allowed.end());
        self.need(name, &text, |value| match *value {
            Value::Unsigned(n) => usize::try_from(n).ok().filter(|n| allowed.contains(n)),
            _ => None,
        })
    }

    /// A text.
    ///
    /// # Errors
    /// `Field`.
    pub fn text(&self, name: &str) -> Result<&str, GgufError> {
        self.need(name, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A list whose every element `take` accepts; `allowed` says what that is.
    ///
    /// # Errors
    /// `Field`.
    pub fn list<'a, T>(
        &'a self,
        name: &str,
        allowed: &str,
        take: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Vec<T>, GgufError> {
        self.need(name, allowed, |value| match value {
            Value::List(list) => list.iter().map(take).collect(),
            _ => None,
        })
    }

    /// Names of the tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether the tensor `name` is there and has this shape.
    ///
    /// # Errors
    /// `Tensor` if not.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<&Info, GgufError> {
        let info = self.tensors.get(name);
        info.filter(|info| info.shape == shape).ok_or_else(|| GgufError::Tensor {
            path: self.path.clone(),
            name: name.into(),
            asked: info.map_or("missing".into(), |i| format!("{:?} {:?}", i.stored, i.shape)),
            allowed: format!("of shape {shape:?}"),
        })
    }

    /// Calls `take` with the elements of the tensor `name`, which must have this shape, as f32: whole rows of its last
    /// axis at a time, with the number of the first.
    ///
    /// # Errors
    /// `Tensor`, `Read`, or what `take` returns.
    pub fn read<E: From<GgufError>>(
        &self,
        name: &str,
        shape: &[usize],
        mut take: impl FnMut(usize, &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let info = self.expect(name, shape)?;
        // `read_tensors` saw that rows are whole blocks and that all of them lie in the file.
        let width = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().rev().skip(1).product::<usize>();
        let (elements, bytes) = info.stored.block();
        let row_bytes = width / elements * bytes;
        let most = (PIECE / row_bytes.max(1)).clamp(1, rows.max(1));
        let (mut blocks, mut out) = (vec![0; most * row_bytes], vec![0.0; most * width]);
        for first in (0..rows).step_by(most) {
            let count = most.min(rows - first);
            let (blocks, out) = (&mut blocks[..count * row_bytes], &mut out[..count * width]);
            self.file
                .read_exact_at(blocks, info.offset + (first * row_bytes) as u64)
                .map_err(|source| GgufError::Read { path: self.path.clone(), source })?;
            info.stored.dequantise(blocks, out);
            take(first, out)?;
        }
        Ok(())
    }
}

fn read_fields(at: &mut Cursor<'_>, count: usize) -> Result<BTreeMap<String, Value>, GgufError> {
    let mut fields = BTreeMap::new();
    for _ in 0..count {
        let name = at.text("a field's name")?;
        let value = at.value(&name)?;
        if fields.insert(name.clone(), value).is_some() {
            return at.fail("a field's name", name, "each name once");
        }
    }
    Ok(fields)
}

fn read_tensors(
    at: &mut Cursor<'_>,
    count: usize,
    fields: &BTreeMap<String, Value>,
    len: u64,
) -> Result<BTreeMap<String, Info>, GgufError> {
    let alignment = match fields.get("general.alignment") {
        None => 32,
        Some(&Value::Unsigned(n)) if n.is_power_of_two() && n <= 1 << 16 => n,
        Some(other) => {
            return at.fail(
                "general.alignment",
                format!("{other:?}"),
                "a power of two up to 65536",
            );
        }
    };
    let mut tensors = BTreeMap::new();
    for _ in 0..count {
        let name = at.text("a tensor's name")?;
        let info = read_info(at, &name)?;
        if tensors.insert(name.clone(), info).is_some() {
            return at.fail("a tensor's name", name, "each name once");
        }
    }
    // Offsets count from the first aligned byte after the table.
    let start = at.at().next_multiple_of(alignment);
    for (name, info) in &mut tensors {
        let (elements, bytes) = info.stored.block();
        let numel = info.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let size = numel.and_then(|n| (n / elements as u64).checked_mul(bytes as u64));
        let end = |offset: u64| size.and_then(|size| offset.checked_add(size));
        let offset = info.offset.checked_add(start).filter(|_| info.offset % alignment == 0);
        match offset.filter(|&offset| end(offset).is_some_and(|end| end <= len)) {
            Some(offset) => info.offset = offset,
            None => {
                let asked = format!("offset {}, {:?} {:?}", info.offset, info.stored, info.shape);
                let allowed = format!("a multiple of {alignment}, inside {len} bytes");
                return at.fail(&format!("tensor {name}"), asked, allowed);
            }
        }
    }
    Ok(tensors)
}

/// One row of the tensor table, its offset still relative.
fn read_info(at: &mut Cursor<'_>, name: &str) -> Result<Info, GgufError> {
    let count = at.u32(&format!("dims of {name}"))?;
    if !(1..=MAX_DIMS).contains(&count) {
        return at.fail(&format!("dims of {name}"), count, format!("1 to {MAX_DIMS}"));
    }
    let what = format!("a dim of {name}");
    let mut shape = Vec::new();
    for _ in 0..count {
        let dim = at.u64(&what)?;
        match usize::try_from(dim).ok().filter(|&dim| dim > 0) {
            Some(dim) => shape.push(dim),
            None => return at.fail(&what, dim, "1 or more"),
        }
    }
    let code = at.u32(&format!("type of {name}"))?;
    let Some(stored) = Stored::of(code) else {
        return at.fail(&format!("type of {name}"), code, Stored::allowed());
    };
    let (elements, _) = stored.block();
    // The file has the innermost dim first.
    if shape[0] % elements != 0 {
        let allowed = format!("a multiple of {elements} in {stored:?}");
        return at.fail(&format!("row length of {name}"), shape[0], allowed);
    }
    shape.reverse();
    Ok(Info { stored, shape, offset: at.u64(&format!("offset of {name}"))? })
}

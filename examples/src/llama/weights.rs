//! Tensors of a GGUF file on their way to a device, a piece at a time: read, made f32, rounded to the device's type.

use crate::gguf::{Gguf, GgufError};
use crate::llama::LlamaError;
use leasehold::{DType, Device, Tensor, bf16, f16};
use std::cell::RefCell;
use std::collections::BTreeSet;

pub(super) struct Weights<'a> {
    file: &'a Gguf,
    device: &'a Device,
    dtype: DType,
    taken: RefCell<BTreeSet<String>>,
}

impl<'a> Weights<'a> {
    pub(super) fn new(file: &'a Gguf, device: &'a Device, dtype: DType) -> Self {
        Self { file, device, dtype, taken: RefCell::default() }
    }

    /// Whether the file has a tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.file.tensors().any(|known| known == name)
    }

    /// The vector `name`.
    pub(super) fn vector(&self, name: &str, len: usize) -> Result<Tensor, LlamaError> {
        self.file.expect(name, &[len])?;
        let tensor = self.device.empty(self.dtype, &[len])?;
        self.fill(name, &[len], &tensor)?;
        Ok(tensor)
    }

    /// The matrices `parts`, each a name and its rows, one below the other: `[rows in all, columns]`.
    pub(super) fn stacked(
        &self,
        parts: &[(String, usize)],
        columns: usize,
    ) -> Result<Tensor, LlamaError> {
        // Before memory is asked for: the sizes are the file's own claim.
        for (name, rows) in parts {
            self.file.expect(name, &[*rows, columns])?;
        }
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let tensor = self.device.empty(self.dtype, &[rows, columns])?;
        let mut first = 0;
        for (name, rows) in parts {
            self.fill(name, &[*rows, columns], &tensor.narrow(0, first, *rows)?)?;
            first += rows;
        }
        Ok(tensor)
    }

    fn fill(&self, name: &str, shape: &[usize], tensor: &Tensor) -> Result<(), LlamaError> {
        self.taken.borrow_mut().insert(name.into());
        self.file.read(name, shape, |first, piece| {
            // A vector comes whole.
            let rows = match *shape {
                [_, columns] => tensor.narrow(0, first, piece.len() / columns)?,
                _ => tensor.clone(),
            };
            match self.dtype {
                DType::F16 => {
                    rows.write(&piece.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>())
                }
                DType::BF16 => {
                    rows.write(&piece.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>())
                }
                _ => rows.write(piece),
            }?;
            // Before the next piece is read: what waits to be copied is memory too.
            Ok(self.device.wait(None)?)
        })
    }

    /// Refuses a file with a tensor that was not taken: the model would not be the one that it holds.
    pub(super) fn all_taken(&self) -> Result<(), GgufError> {
        let taken = self.taken.borrow();
        match self.file.tensors().find(|name| !taken.contains(*name)) {
            None => Ok(()),
            Some(name) => Err(GgufError::Tensor {
                path: self.file.path().into(),
                name: name.into(),
                asked: "there".into(),
                allowed: "the tensors of a llama model".into(),
            }),
        }
    }
}

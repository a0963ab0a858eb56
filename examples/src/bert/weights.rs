//! `model.safetensors` as tensors of a device, each checked against the shape that the configuration asks for.

use super::{Config, ModelError};
use crate::model::{Linear, Normal};
use leasehold::{DType, Device, Map, Tensor};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// A weights file in memory.
pub(super) struct File {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Reads a weights file.
pub(super) fn read(path: &Path) -> Result<File, ModelError> {
    let bytes =
        std::fs::read(path).map_err(|source| ModelError::Read { path: path.into(), source })?;
    Ok(File { path: path.into(), bytes })
}

/// The tensors of a file, on their way to a device.
pub(super) struct Weights<'a> {
    path: &'a Path,
    file: SafeTensors<'a>,
    device: &'a Device,
    dtype: DType,
}

impl<'a> Weights<'a> {
    pub(super) fn new(
        file: &'a File,
        device: &'a Device,
        dtype: DType,
    ) -> Result<Self, ModelError> {
        let File { path, bytes } = file;
        let file = SafeTensors::deserialize(bytes)
            .map_err(|source| ModelError::Safetensors { path: path.clone(), source })?;
        Ok(Self { path, file, device, dtype })
    }

    /// The tensor `name`, which must have this shape.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        self.upload(&self.host(name, shape)?, shape)
    }

    /// The maps `names`, each `[inputs] -> [outputs]`, side by side as one.
    pub(super) fn linear(
        &self,
        names: &[String],
        inputs: usize,
        outputs: usize,
    ) -> Result<Linear, ModelError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weight.extend(self.host(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.extend(self.host(&format!("{name}.bias"), &[outputs])?);
        }
        let outputs = names.len() * outputs;
        let weight = self.upload(&weight, &[outputs, inputs])?.t();
        Ok(Linear { weight, bias: Some(self.upload(&bias, &[outputs])?) })
    }

    /// The layer norm `name`.
    pub(super) fn norm(&self, name: &str, config: &Config) -> Result<Normal, ModelError> {
        let shape = [config.hidden_size];
        Ok(Normal::Layer {
            weight: self.tensor(&format!("{name}.weight"), &shape)?,
            bias: self.tensor(&format!("{name}.bias"), &shape)?,
            epsilon: config.layer_norm_eps,
        })
    }

    /// The elements of `name`, which must be f32 of this shape.
    fn host(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let unfit = |asked: String| {
            let allowed = format!("F32 {shape:?}");
            ModelError::Tensor { path: self.path.into(), name: name.into(), asked, allowed }
        };
        let tensor = self.file.tensor(name).map_err(|_| unfit("missing".into()))?;
        if tensor.dtype() != safetensors::Dtype::F32 || tensor.shape() != shape {
            return Err(unfit(format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
        }
        Ok(bytemuck::pod_collect_to_vec(tensor.data()))
    }

    fn upload(&self, data: &[f32], shape: &[usize]) -> Result<Tensor, ModelError> {
        let tensor = self.device.tensor_of(shape, data)?;
        if self.dtype == DType::F32 {
            return Ok(tensor);
        }
        Ok(Map::cast(&tensor, self.dtype).run()?)
    }
}

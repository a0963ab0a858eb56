//! Pipelines, made once per kernel, constants and entry point, when an op that takes it is prepared. Every buffer is bound as writable storage: wgpu refuses a buffer
//! that one dispatch binds both ways, and an executor keeps many tensors in one buffer.

use super::loss::Loss;
use crate::error::{Kind, Result};
use leasehold_shaders::{Shader, shader, variant};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// What a pipeline sets in its module.
pub(super) type Constants = Vec<(&'static str, u32)>;

/// A kernel's module with constants, and its pipelines, one an entry point.
pub(super) struct Kernel {
    pub(super) shader: &'static Shader,
    pub(super) layout: wgpu::BindGroupLayout,
    pipeline_layout: wgpu::PipelineLayout,
    module: wgpu::ShaderModule,
    constants: Constants,
    pipelines: Vec<OnceLock<wgpu::ComputePipeline>>,
}

/// The kernels made so far.
#[derive(Default)]
pub(super) struct Kernels(HashMap<(&'static str, Constants), Arc<Kernel>>);

impl Kernels {
    /// The kernel that plans call `name`, with these constants and the pipelines of these entry points.
    ///
    /// # Errors
    /// `Unsupported` for a name without a shader or a kernel of more buffers than the device binds, `DeviceLost` when the driver
    /// refuses a pipeline.
    pub(super) fn get(
        &mut self,
        device: &wgpu::Device,
        loss: &Loss,
        name: &'static str,
        mut constants: Constants,
        entries: &[usize],
    ) -> Result<Arc<Kernel>> {
        let variant = variant(name);
        let Some(shader) = variant.map(|v| &v.shader).or_else(|| shader(name)) else {
            let allowed = "ops that have a shader".into();
            return Err(Kind::Unsupported { asked: name.into(), allowed }.into());
        };
        fits(shader, device.limits().max_storage_buffers_per_shader_stage)?;
        constants.retain(|&(constant, _)| shader.kinds || constant != "KIND");
        constants.extend(variant.map_or(&[][..], |v| v.constants));
        let key = (name, constants.clone());
        let found = self.0.entry(key.clone());
        let source = || variant.map_or_else(|| shader.source(), |v| v.source());
        let make = || Arc::new(make(device, shader, &source(), constants));
        let kernel = Arc::clone(found.or_insert_with(make));
        for &entry in entries {
            kernel.pipeline(device, entry);
        }
        if let Err(lost) = loss.check() {
            self.0.remove(&key);
            return Err(lost);
        }
        Ok(kernel)
    }
}

impl Kernel {
    /// The pipeline of an entry point.
    pub(super) fn pipeline(&self, device: &wgpu::Device, entry: usize) -> &wgpu::ComputePipeline {
        self.pipelines[entry].get_or_init(|| {
            let constants = self.constants.iter().map(|&(name, value)| (name, f64::from(value)));
            let constants: Vec<(&str, f64)> = constants.collect();
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(self.shader.op),
                layout: Some(&self.pipeline_layout),
                module: &self.module,
                entry_point: Some(self.shader.entries[entry]),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    // Every kernel writes its workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        })
    }
}

/// That a device binds as many storage buffers as a kernel has.
fn fits(shader: &Shader, most: u32) -> Result<()> {
    let count = shader.bindings.len();
    if count <= most as usize {
        return Ok(());
    }
    let (asked, allowed) = (format!("{count} storage buffers in a kernel"), most.to_string());
    Err(Kind::Unsupported { asked, allowed }.into())
}

fn make(
    device: &wgpu::Device,
    shader: &'static Shader,
    source: &str,
    constants: Constants,
) -> Kernel {
    let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let storage = wgpu::BufferBindingType::Storage { read_only: false };
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
    entries.extend((1..).zip(shader.bindings).map(|(i, _)| entry(i, storage)));
    let label = Some(shader.op);
    let layout = device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    // The checked constructor: naga's bounds checks stay on.
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label,
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipelines = shader.entries.iter().map(|_| OnceLock::new()).collect();
    Kernel { shader, layout, pipeline_layout, module, constants, pipelines }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_shaders::SHADERS;

    /// An adapter of few buffers runs what needs no more of them, and is told what the others need.
    #[test]
    fn a_kernel_is_refused_by_the_buffers_that_it_has() {
        for shader in &SHADERS {
            let count = shader.bindings.len() as u32;
            assert_eq!(fits(shader, count), Ok(()), "{}", shader.op);
            let error = fits(shader, count - 1).map_err(|error| error.to_string());
            let [asked, allowed] = [count, count - 1].map(|n| n.to_string());
            assert!(error.is_err_and(|e| e.contains(&asked) && e.contains(&allowed)));
        }
        let few = SHADERS.iter().filter(|shader| fits(shader, 8).is_ok()).count();
        assert!(few > 10, "{few}");
    }
}

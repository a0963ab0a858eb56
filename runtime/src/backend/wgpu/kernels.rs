//! Pipelines, made once per op and element type. Every buffer is bound as writable storage: wgpu refuses a buffer
//! that one dispatch binds both ways, and an executor keeps many tensors in one buffer.

use super::loss::Loss;
use crate::dtype::DType;
use crate::error::{Kind, Result};
use leasehold_shaders::{Shader, shader};
use std::collections::HashMap;
use std::sync::Arc;

/// An op's pipelines, one an entry point.
pub(super) struct Kernel {
    pub(super) shader: &'static Shader,
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) pipelines: Vec<wgpu::ComputePipeline>,
}

/// The pipelines made so far.
#[derive(Default)]
pub(super) struct Kernels(HashMap<(&'static str, DType), Arc<Kernel>>);

impl Kernels {
    /// The kernel of an op for inputs of this type.
    ///
    /// # Errors
    /// `Unsupported` for an op without a shader, `DeviceLost` when the driver refuses the pipeline.
    pub(super) fn get(
        &mut self,
        device: &wgpu::Device,
        loss: &Loss,
        op: &'static str,
        kind: DType,
    ) -> Result<Arc<Kernel>> {
        let Some(shader) = shader(op) else {
            let allowed = "ops that have a shader".into();
            return Err(Kind::Unsupported { asked: op.into(), allowed }.into());
        };
        let kind = if shader.kinds { kind } else { DType::F32 };
        if let Some(kernel) = self.0.get(&(op, kind)) {
            return Ok(Arc::clone(kernel));
        }
        let kernel = Arc::new(make(device, shader, kind));
        loss.check()?;
        self.0.insert((op, kind), Arc::clone(&kernel));
        Ok(kernel)
    }
}

fn make(device: &wgpu::Device, shader: &'static Shader, kind: DType) -> Kernel {
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
        source: wgpu::ShaderSource::Wgsl(shader.source().into()),
    });
    let constants: &[(&str, f64)] = match shader.kinds {
        true => &[("KIND", f64::from(kind as u8))],
        false => &[],
    };
    let pipeline = |entry: &&'static str| {
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        })
    };
    let pipelines = shader.entries.iter().map(pipeline).collect();
    Kernel { shader, layout, pipelines }
}

//! Which adapters there are, what they can do, and how one is opened. No wgpu type leaves the backend.

use super::loss::Loss;
use super::plan::{ALIGN, Class, GPU, SOFTWARE};
use crate::backend::Caps;
use crate::error::{Kind, Result};
use leasehold_shaders::SHADERS;

/// Largest range that kernels address: element numbers have 31 bits.
const ADDRESSABLE: u64 = (1 << 31) - 4;

/// An adapter, described.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What it is and can do.
    pub caps: Caps,
    /// Driver and its version.
    pub driver: String,
    /// `Vulkan`, `Metal`, `Dx12`.
    pub api: String,
    /// `discrete`, `integrated`, `virtual`, `software`, `other`.
    pub kind: &'static str,
}

/// The adapters in the driver's order; none where there is no driver.
pub(super) fn all() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        // Validation layers are for drivers' developers; naga and wgpu check all that we send.
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    pollster::block_on(instance.enumerate_adapters(backends))
}

/// The class whose orders and rates an adapter has.
pub(super) fn class(adapter: &wgpu::Adapter) -> &'static Class {
    match adapter.get_info().device_type {
        wgpu::DeviceType::Cpu => &SOFTWARE,
        _ => &GPU,
    }
}

/// What is known of an adapter without opening it.
pub(super) fn describe(adapter: &wgpu::Adapter) -> Adapter {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let class = class(adapter);
    let software = info.device_type == wgpu::DeviceType::Cpu;
    let timestamps = adapter.features().contains(TIMESTAMPS);
    let caps = Caps {
        backend: "wgpu",
        name: info.name.clone(),
        arch: class.name,
        software,
        max_alloc: limits.max_buffer_size.min(u64::MAX / 2) / ALIGN * ALIGN,
        max_binding: limits.max_storage_buffer_binding_size.min(ADDRESSABLE).saturating_sub(ALIGN),
        // No API says how much memory an adapter has: this much one buffer may have.
        memory: limits.max_buffer_size.min(u64::MAX / 2),
        unit_cap_ns: class.unit_cap_ns,
        clock: if timestamps { "device timestamps" } else { "host clock" },
    };
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    };
    let driver = format!("{} {}", info.driver, info.driver_info);
    Adapter { caps, driver, api: format!("{:?}", info.backend), kind }
}

/// Timestamps written between passes.
const TIMESTAMPS: wgpu::Features =
    wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);

/// Opens an adapter with all its limits, and routes its errors and its loss to `loss`.
///
/// # Errors
/// `Unsupported` below the kernels' needs, `NoDevice` when the driver refuses.
pub(super) fn open(adapter: &wgpu::Adapter, loss: &Loss) -> Result<(wgpu::Device, wgpu::Queue)> {
    let limits = adapter.limits();
    let have = limits.max_storage_buffers_per_shader_stage;
    let most = SHADERS.iter().map(|shader| shader.bindings.len()).max().unwrap_or(0);
    if (have as usize) < most {
        let asked = format!("{most} storage buffers in a kernel");
        return Err(Kind::Unsupported { asked, allowed: have.to_string() }.into());
    }
    let request = adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("leasehold"),
        required_features: adapter.features() & TIMESTAMPS,
        required_limits: limits,
        ..Default::default()
    });
    let (device, queue) =
        pollster::block_on(request).map_err(|e| Kind::NoDevice { why: e.to_string() })?;
    loss.watch(&device);
    Ok((device, queue))
}

/// Whether an opened device has timestamps.
pub(super) fn has_timestamps(device: &wgpu::Device) -> bool {
    device.features().contains(TIMESTAMPS)
}

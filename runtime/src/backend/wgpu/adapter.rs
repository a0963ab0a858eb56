//! Which adapters there are, what they can do, and how one is opened. No wgpu type leaves the backend.

use super::loss::Loss;
use super::plan::{ALIGN, Class, GPU, GPU_COOP8, GPU_COOP16, SOFTWARE};
use crate::backend::Caps;
use crate::error::{Kind, Result};

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
    match (adapter.get_info().device_type, edge(adapter)) {
        (wgpu::DeviceType::Cpu, _) => &SOFTWARE,
        (_, Some(16)) => &GPU_COOP16,
        (_, Some(8)) => &GPU_COOP8,
        _ => &GPU,
    }
}

/// What kernels of a matrix unit ask of a device.
const MATRIX_UNIT: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);
/// Lanes of a subgroup in those kernels, on every device that they run on, and bytes of workgroup memory that none of
/// them goes beyond.
const SUBGROUP: u32 = 32;
const WORKGROUP_BYTES: u32 = 32 << 10;

/// The largest edge of square tiles of f16 that a matrix unit sums in f32, where our kernels can use it: they know a
/// lane's subgroup by its number, so the size must be fixed.
fn edge(adapter: &wgpu::Adapter) -> Option<u32> {
    let info = adapter.get_info();
    let fixed = [info.subgroup_min_size, info.subgroup_max_size] == [SUBGROUP; 2];
    let flags = adapter.get_downlevel_capabilities().flags;
    let unpacks = flags.contains(wgpu::DownlevelFlags::SHADER_F16_IN_F32);
    let room = adapter.limits().max_compute_workgroup_storage_size >= WORKGROUP_BYTES;
    if !fixed || !unpacks || !room || !adapter.features().contains(MATRIX_UNIT) {
        return None;
    }
    use wgpu::CooperativeScalarType::{F16, F32};
    let tiles = adapter.cooperative_matrix_properties().into_iter();
    let ours = tiles.filter(|t| t.m_size == t.n_size && t.n_size == t.k_size);
    let ours = ours.filter(|t| (t.ab_type, t.cr_type) == (F16, F32));
    ours.map(|t| t.m_size).filter(|edge| [8, 16].contains(edge)).max()
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

/// Opens an adapter with all its limits, and routes its errors and its loss to `loss`. Kernels that need more are refused where
/// an op needs them.
///
/// # Errors
/// `NoDevice` when the driver refuses.
pub(super) fn open(adapter: &wgpu::Adapter, loss: &Loss) -> Result<(wgpu::Device, wgpu::Queue)> {
    let limits = adapter.limits();
    let with_unit = class(adapter).unit.is_some();
    let features = if with_unit { TIMESTAMPS | MATRIX_UNIT } else { TIMESTAMPS };
    let experimental_features = match with_unit {
        // SAFETY: wgpu wants to hear that an experimental feature may have holes. Ours is the matrix unit: only
        // kernels of our own table use it, which load and store tiles of workgroup memory alone, in bounds by constant
        // arithmetic. No tenant's shader is ever compiled.
        true => unsafe { wgpu::ExperimentalFeatures::enabled() },
        false => wgpu::ExperimentalFeatures::disabled(),
    };
    let request = adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("leasehold"),
        required_features: adapter.features() & features,
        required_limits: limits,
        experimental_features,
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

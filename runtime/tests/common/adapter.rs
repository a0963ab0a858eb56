//! The adapter that wgpu tests run on.
#![cfg(feature = "wgpu")]

use leasehold::backend::wgpu::Wgpu;

/// The first adapter: hardware where there is any, else software. `None` after saying so where there is no
/// driver, which is a failure where CI could have installed one.
pub fn open() -> Option<Wgpu> {
    let adapters = Wgpu::enumerate();
    let hardware = adapters.iter().position(|adapter| !adapter.caps.software);
    match hardware.or((!adapters.is_empty()).then_some(0)) {
        Some(index) => Some(Wgpu::open(index).unwrap()),
        None => {
            let ci = std::env::var_os("CI").is_some_and(|v| v == "true");
            assert!(!ci, "no wgpu adapter, and mesa-vulkan-drivers could have been installed");
            println!("skip: no wgpu adapter (install mesa-vulkan-drivers)");
            None
        }
    }
}

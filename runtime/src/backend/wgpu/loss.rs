//! Loss of the device, and errors that no scope caught: both end it. Kept where callbacks of any thread can
//! say so and every call of the backend can ask.

use crate::error::{Kind, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// The first thing that ended the device.
#[derive(Clone, Default)]
pub(super) struct Loss(Arc<Mutex<Option<String>>>);

impl Loss {
    /// Listens to a device.
    pub(super) fn watch(&self, device: &wgpu::Device) {
        let lost = self.clone();
        device
            .set_device_lost_callback(move |reason, text| lost.set(format!("{reason:?}: {text}")));
        let failed = self.clone();
        device
            .on_uncaptured_error(Arc::new(move |error: wgpu::Error| failed.set(error.to_string())));
    }

    pub(super) fn set(&self, why: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    /// # Errors
    /// `DeviceLost` once anything was told.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(Kind::DeviceLost { why: why.clone() }.into()),
            None => Ok(()),
        }
    }
}

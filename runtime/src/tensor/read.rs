//! Reads: elements on their way from a device to the host.

use crate::device::Device;
use crate::dtype::Element;
use crate::engine::{Ticket, zeroed};
use crate::error::{Error, Kind, Result, Rule};
use std::marker::PhantomData;
use std::time::Duration;

/// Elements on their way to the host.
#[derive(Debug)]
pub struct Read<T> {
    device: Device,
    ticket: Ticket,
    len: usize,
    taken: bool,
    element: PhantomData<T>,
}

impl<T: Element> Read<T> {
    pub(super) fn new(device: &Device, ticket: Ticket, len: usize) -> Self {
        Self { device: device.clone(), ticket, len, taken: false, element: PhantomData }
    }

    /// Whether the elements, or an error, are here.
    pub fn ready(&self) -> bool {
        !matches!(self.device.engine().poll(self.ticket, Some(Duration::ZERO)), Ok(false))
    }

    /// Waits for the elements, at most `timeout` (`None`: as long as it takes). After a time-out it may be
    /// called again.
    ///
    /// # Errors
    /// `Timeout`; the first cause when the op that made the tensor failed; `DeviceLost`, `Revoked`.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Vec<T>> {
        self.arrived(timeout)?;
        let mut data = zeroed(self.len)?;
        self.wait_into(&mut data, timeout)?;
        Ok(data)
    }

    fn arrived(&self, timeout: Option<Duration>) -> Result<()> {
        if self.device.engine().poll(self.ticket, timeout)? {
            return Ok(());
        }
        let waited_ms = timeout.map_or(0, |t| t.as_millis() as u64);
        Err(Kind::Timeout { waited_ms }.into())
    }

    /// [`Read::wait`] into a buffer of exactly the tensor's length.
    ///
    /// # Errors
    /// As [`Read::wait`]; `Shape` when `dst` has another length or the elements were taken before.
    pub fn wait_into(&mut self, dst: &mut [T], timeout: Option<Duration>) -> Result<()> {
        if dst.len() != self.len || self.taken {
            let allowed =
                if self.taken { "none: already taken".into() } else { self.len.to_string() };
            return Err(Error::rejected(Rule::OutDims, None, dst.len(), allowed));
        }
        self.arrived(timeout)?;
        self.taken = true;
        self.device.engine().fetch(self.ticket, bytemuck::cast_slice_mut(dst))
    }
}

impl<T> Drop for Read<T> {
    fn drop(&mut self) {
        if !self.taken {
            self.device.engine().forget(self.ticket);
        }
    }
}

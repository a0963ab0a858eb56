//! Tensors, their views and reads: what a tenant holds. A tensor is a view of a buffer of one device; views
//! share the buffer, and the last one dropped frees it.

pub(crate) mod ops;
mod program;
mod read;

pub use program::{Program, Quote, Recorder};
pub use read::Read;

use crate::device::{Device, Queue};
use crate::dtype::{DType, Element};
use crate::error::{Error, Kind, Result};
use crate::layout::{Dims, Layout};
use crate::op::{Binding, BufferId, Rule, Spec};
use std::fmt;
use std::sync::Arc;

/// A buffer of a device, freed when its last view goes; or one that a program being recorded will have.
struct Buffer {
    device: Device,
    id: BufferId,
    len: u64,
}

/// Set in the ids of buffers that exist only in a program being recorded; engines count from 1.
const RECORDED: u64 = 1 << 63;

impl Buffer {
    fn is_recorded(&self) -> bool {
        self.id.0 & RECORDED != 0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.is_recorded() {
            self.device.engine().free(self.id);
        }
    }
}

/// A view of device memory: dtype, shape and strides (in elements), and where it begins. Clones share memory.
#[derive(Clone)]
pub struct Tensor {
    buffer: Arc<Buffer>,
    dtype: DType,
    layout: Layout,
    /// Bytes from the buffer's start to the first element.
    offset: u64,
}

/// `sizes` as [`Dims`], naming the rule when there are too many.
pub(crate) fn dims(sizes: &[usize]) -> Result<Dims> {
    let wide: Vec<u64> = sizes.iter().map(|&n| n as u64).collect();
    Dims::new(&wide).ok_or_else(|| {
        let asked = format!("{} dimensions", sizes.len());
        Error::rejected(Rule::Rank, None, asked, format!("at most {}", crate::MAX_RANK))
    })
}

impl Tensor {
    /// A new row-major tensor, contents undefined.
    pub(crate) fn empty(device: &Device, dtype: DType, shape: Dims) -> Result<Self> {
        let layout = Layout::contiguous(shape);
        let bytes = layout.numel().saturating_mul(u128::from(dtype.size()));
        let len = u64::try_from(bytes).map_err(|_| {
            Error::rejected(Rule::Elements, None, layout, "fewer than 2^62 elements and bytes")
        })?;
        let id = device.engine().alloc(len)?;
        let buffer = Arc::new(Buffer { device: device.clone(), id, len });
        Ok(Self { buffer, dtype, layout, offset: 0 })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes.
    pub fn shape(&self) -> &[u64] {
        self.layout.shape()
    }

    /// Shape and strides.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The device it lies on.
    pub fn device(&self) -> &Device {
        &self.buffer.device
    }

    pub(crate) fn spec(&self) -> Spec {
        Spec::new(self.dtype, self.layout, self.offset)
    }

    pub(crate) fn binding(&self) -> Binding {
        Binding { buffer: self.buffer.id, offset: self.offset, len: self.buffer.len }
    }

    /// Refuses a tensor that has no memory yet.
    pub(crate) fn in_memory(&self) -> Result<()> {
        if !self.buffer.is_recorded() {
            return Ok(());
        }
        let asked = "a tensor of a program being recorded".to_string();
        Err(Kind::Device { asked, allowed: "a tensor in memory".into() }.into())
    }

    fn view(&self, layout: Layout, elements: u64) -> Result<Self> {
        let offset = elements.checked_mul(self.dtype.size());
        let offset = offset.and_then(|bytes| bytes.checked_add(self.offset));
        let end = offset.map(|o| u128::from(o) + Spec::new(self.dtype, layout, 0).span_bytes());
        match (offset, end) {
            (Some(offset), Some(end)) if end <= u128::from(self.buffer.len) => {
                Ok(Self { buffer: Arc::clone(&self.buffer), layout, offset, ..*self })
            }
            _ => {
                let asked = end.map_or_else(|| format!("element {elements}"), |e| e.to_string());
                Err(Error::rejected(Rule::InBounds, None, asked, self.buffer.len))
            }
        }
    }

    /// The same memory under `layout`, which [`Layout`] made from this one without leaving it.
    pub(crate) fn with_layout(&self, layout: Layout) -> Self {
        Self { layout, ..self.clone() }
    }

    /// The last two axes exchanged, without a copy. Below rank 2 the tensor itself.
    #[must_use]
    pub fn t(&self) -> Self {
        self.with_layout(self.layout.transpose().unwrap_or(self.layout))
    }

    /// The axes in a new order, without a copy.
    ///
    /// # Errors
    /// `Value` unless `order` is a permutation of the axes.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        let layout = self.layout.permute(order).ok_or_else(|| {
            let allowed = format!("a permutation of 0..{}", self.layout.rank());
            Error::rejected(Rule::Axis, None, format!("{order:?}"), allowed)
        })?;
        Ok(self.with_layout(layout))
    }

    /// Entries `start..start + len` of `axis`, without a copy.
    ///
    /// # Errors
    /// `Value` when the axis or the entries do not exist.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        let cut = self.layout.narrow(axis, start as u64, len as u64).ok_or_else(|| {
            let asked = format!("axis {axis}, {len} entries from {start}");
            Error::rejected(
                Rule::Axis,
                None,
                asked,
                format!("inside shape {}", self.layout.shape()),
            )
        })?;
        self.view(cut.0, cut.1)
    }

    /// The same elements in another shape, without a copy.
    ///
    /// # Errors
    /// `Shape` when the counts differ or the strides would need a copy.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        let shape = dims(shape)?;
        let layout = self.layout.reshape(&shape).ok_or_else(|| {
            let allowed =
                format!("{} elements of {} without a copy", self.layout.numel(), self.layout);
            Error::rejected(Rule::OutDims, None, shape, allowed)
        })?;
        Ok(self.with_layout(layout))
    }

    /// Repeated to `shape` by NumPy's rule, without a copy.
    ///
    /// # Errors
    /// `Shape` when an axis is neither equal nor 1.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self> {
        self.broadcast(&dims(shape)?)
    }

    pub(crate) fn broadcast(&self, shape: &Dims) -> Result<Self> {
        let layout = self.layout.broadcast_to(shape).ok_or_else(|| {
            let allowed = format!("what {} broadcasts to", self.layout.shape());
            Error::rejected(Rule::SameShape, None, shape, allowed)
        })?;
        Ok(self.with_layout(layout))
    }

    /// A view with any strides and offset, in elements from this view's first.
    ///
    /// # Errors
    /// `Layout` for negative strides or offsets, `Bounds` when it leaves the buffer.
    pub fn as_strided(&self, shape: &[usize], strides: &[i64], offset: i64) -> Result<Self> {
        let negative = strides.iter().chain([&offset]).find(|&&s| s < 0);
        if let Some(value) = negative {
            return Err(Error::rejected(
                Rule::OutInjective,
                None,
                value,
                "strides and offsets from 0",
            ));
        }
        let steps: Vec<usize> = strides.iter().map(|&s| s as usize).collect();
        let (shape, strides) = (dims(shape)?, dims(&steps)?);
        let layout = Layout::new(shape, strides).ok_or_else(|| {
            Error::rejected(Rule::Rank, None, strides.rank(), format!("{} strides", shape.rank()))
        })?;
        self.view(layout, offset as u64)
    }

    /// Replaces the contents of a row-major view.
    ///
    /// # Errors
    /// `DType` or `Shape` when `data` is not of this view's dtype and length, `Layout` when it has gaps.
    pub fn write<T: Element>(&self, data: &[T]) -> Result<()> {
        self.write_on(&self.device().default_queue(), data)
    }

    /// [`Tensor::write`] on a queue.
    ///
    /// # Errors
    /// As [`Tensor::write`].
    pub fn write_on<T: Element>(&self, queue: &Queue, data: &[T]) -> Result<()> {
        self.in_memory()?;
        self.has_dtype(T::DTYPE)?;
        if data.len() as u128 != self.layout.numel() {
            let asked = format!("{} elements", data.len());
            return Err(Error::rejected(Rule::OutDims, None, asked, self.layout.numel()));
        }
        if !self.layout.is_contiguous() {
            let asked = self.layout;
            return Err(Error::rejected(Rule::OutInjective, None, asked, "row-major without gaps"));
        }
        let bytes = bytemuck::cast_slice(data);
        self.device().engine().write(self.buffer.id, self.offset, bytes, queue.id())?;
        Ok(())
    }

    /// Starts to read the elements in row-major order; a strided view is made dense on the device first.
    ///
    /// # Errors
    /// `DType` when `T` is not this tensor's element type; what enqueueing fails with.
    pub fn read<T: Element>(&self) -> Result<Read<T>> {
        self.read_on(&self.device().default_queue())
    }

    /// [`Tensor::read`] on a queue.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub fn read_on<T: Element>(&self, queue: &Queue) -> Result<Read<T>> {
        self.in_memory()?;
        self.has_dtype(T::DTYPE)?;
        let dense = if self.layout.is_contiguous() {
            self.clone()
        } else {
            ops::Copy::new(self).on(queue).run()?
        };
        // A tensor lies in memory, so its length fits the address space.
        let len = dense.layout.numel() as usize;
        let bytes = len as u64 * self.dtype.size();
        let engine = dense.device().engine();
        let ticket = engine.read(dense.buffer.id, dense.offset, bytes, queue.id())?;
        Ok(Read::new(self.device(), ticket, len))
    }

    fn has_dtype(&self, dtype: DType) -> Result<()> {
        if dtype == self.dtype {
            return Ok(());
        }
        Err(Error::rejected(Rule::SameDType, None, dtype, self.dtype))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} on {}", self.dtype, self.layout, self.device().name())
    }
}

impl Device {
    /// A tensor of `shape` with these elements in row-major order.
    ///
    /// # Errors
    /// `Shape` when the count differs, `OutOfMemory`.
    pub fn tensor<T: Element, const N: usize>(
        &self,
        shape: [usize; N],
        data: &[T],
    ) -> Result<Tensor> {
        self.tensor_of(&shape, data)
    }

    /// [`Device::tensor`] for a rank known at run time.
    ///
    /// # Errors
    /// As [`Device::tensor`].
    pub fn tensor_of<T: Element>(&self, shape: &[usize], data: &[T]) -> Result<Tensor> {
        let shape = dims(shape)?;
        if shape.product() != data.len() as u128 {
            let asked = format!("{} elements", data.len());
            return Err(Error::rejected(Rule::OutDims, None, asked, format!("shape {shape}")));
        }
        let tensor = Tensor::empty(self, T::DTYPE, shape)?;
        tensor.write(data)?;
        Ok(tensor)
    }

    /// A tensor of `shape` whose contents are undefined until something is written.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn empty(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        Tensor::empty(self, dtype, dims(shape)?)
    }
}

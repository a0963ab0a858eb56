//! Blocks of device memory, and bytes to and from the host. Device copies go by words of 4 bytes: what is not
//! aligned to them goes by way of the host, edge words merged.

use super::Wgpu;
use super::plan::ALIGN;
use crate::backend::{BlockId, Place};
use crate::error::{Error, Kind, Result};

/// Bytes that one readback maps at most.
const CHUNK: u64 = 64 << 20;
/// Uploads that wgpu keeps staged before they are submitted.
const STAGED: u64 = 32 << 20;
const WORD: u64 = 4;

/// A block: its buffer, and the bytes that were asked for.
pub(super) struct Block {
    pub(super) buffer: wgpu::Buffer,
    pub(super) len: u64,
}

/// The words that a byte range touches.
fn words(offset: u64, len: u64) -> (u64, u64) {
    let start = offset / WORD * WORD;
    (start, (offset + len).next_multiple_of(WORD) - start)
}

impl Wgpu {
    pub(super) fn block(&self, place: Place, len: u64) -> Result<&Block> {
        let end = u128::from(place.offset) + u128::from(len);
        match self.blocks.get(&place.block.0) {
            Some(block) if end <= u128::from(block.len) => Ok(block),
            other => {
                let allowed = other.map_or(0, |block| block.len).to_string();
                Err(Kind::Bounds { asked: end.to_string(), allowed }.into())
            }
        }
    }

    pub(super) fn out_of_memory(&self, asked: u64) -> Error {
        let quota = self.caps.memory;
        Kind::OutOfMemory { asked, free: quota.saturating_sub(self.used), quota }.into()
    }

    /// A buffer, or the driver's refusal as an error.
    pub(super) fn buffer(&self, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let (label, mapped_at_creation) = (None, false);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label,
            size,
            usage,
            mapped_at_creation,
        });
        match pollster::block_on(scope.pop()) {
            Some(_) => Err(self.out_of_memory(size)),
            None => self.loss.check().map(|()| buffer),
        }
    }

    pub(super) fn alloc_block(&mut self, bytes: u64) -> Result<BlockId> {
        self.loss.check()?;
        let free = self.caps.memory.saturating_sub(self.used);
        if bytes > free.min(self.caps.max_alloc) {
            return Err(self.out_of_memory(bytes));
        }
        use wgpu::BufferUsages as Usage;
        let usage = Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST;
        let buffer = self.buffer(bytes.max(1).next_multiple_of(ALIGN), usage)?;
        self.next_block += 1;
        self.used += bytes;
        self.blocks.insert(self.next_block, Block { buffer, len: bytes });
        Ok(BlockId(self.next_block))
    }

    /// Device-side clearing of whole words, host-side merging of the rest.
    pub(super) fn zero_bytes(&mut self, place: Place, len: u64) -> Result<()> {
        self.loss.check()?;
        let buffer = self.block(place, len)?.buffer.clone();
        let end = place.offset + len;
        let (first, last) = (place.offset.next_multiple_of(WORD).min(end), end / WORD * WORD);
        if last > first {
            self.stream.encoder().clear_buffer(&buffer, first, Some(last - first));
        }
        let head = first - place.offset;
        self.upload_bytes(place, &[0; WORD as usize][..head as usize])?;
        let tail = Place { offset: last.max(first), ..place };
        let rest = end - tail.offset;
        self.upload_bytes(tail, &[0; WORD as usize][..rest as usize])
    }

    pub(super) fn upload_bytes(&mut self, place: Place, src: &[u8]) -> Result<()> {
        self.loss.check()?;
        let len = src.len() as u64;
        let buffer = self.block(place, len)?.buffer.clone();
        if len == 0 {
            return Ok(());
        }
        let (start, size) = words(place.offset, len);
        if (start, size) == (place.offset, len) {
            // A write of the queue runs before the submission after it, so what is encoded goes first.
            self.stream.flush()?;
            self.queue.write_buffer(&buffer, start, src);
        } else {
            let mut merged = src.to_vec();
            let (before, after) = (place.offset - start, start + size - place.offset - len);
            for (at, count, front) in [(start, before, true), (start + size - WORD, after, false)] {
                if count == 0 {
                    continue;
                }
                let mut word = [0; WORD as usize];
                self.download_words(&buffer, at, &mut word)?;
                if front {
                    merged.splice(0..0, word[..count as usize].iter().copied());
                } else {
                    merged.extend_from_slice(&word[(WORD - count) as usize..]);
                }
            }
            self.stream.flush()?;
            self.queue.write_buffer(&buffer, start, &merged);
        }
        self.staged += len;
        if self.staged > STAGED {
            self.queue.submit([]);
            self.staged = 0;
        }
        self.loss.check()
    }

    pub(super) fn download_bytes(&mut self, place: Place, dst: &mut [u8]) -> Result<()> {
        self.loss.check()?;
        let len = dst.len() as u64;
        let buffer = self.block(place, len)?.buffer.clone();
        let (start, size) = words(place.offset, len);
        if (start, size) == (place.offset, len) {
            return self.download_words(&buffer, start, dst);
        }
        let mut whole = vec![0; size as usize];
        self.download_words(&buffer, start, &mut whole)?;
        let skip = (place.offset - start) as usize;
        dst.copy_from_slice(&whole[skip..skip + dst.len()]);
        Ok(())
    }

    /// Reads whole words, after everything launched.
    fn download_words(&mut self, buffer: &wgpu::Buffer, start: u64, dst: &mut [u8]) -> Result<()> {
        for (i, part) in dst.chunks_mut(CHUNK as usize).enumerate() {
            let len = part.len() as u64;
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let staging = self.buffer(len, usage)?;
            let from = start + i as u64 * CHUNK;
            self.stream.encoder().copy_buffer_to_buffer(buffer, from, &staging, 0, len);
            self.stream.flush()?;
            staging.map_async(wgpu::MapMode::Read, .., |_| {});
            self.stream.drain()?;
            // Mapping follows the submission; the callback of ours may be one poll later.
            let view = match staging.get_mapped_range(..) {
                Ok(view) => view,
                Err(e) => return Err(Kind::DeviceLost { why: e.to_string() }.into()),
            };
            part.copy_from_slice(&view);
        }
        self.loss.check()
    }

    /// Copies on the device where both ends are aligned, by way of the host otherwise.
    pub(super) fn copy_bytes(&mut self, src: Place, dst: Place, len: u64) -> Result<()> {
        self.loss.check()?;
        let from = self.block(src, len)?.buffer.clone();
        let to = self.block(dst, len)?.buffer.clone();
        if len == 0 {
            return Ok(());
        }
        if [src.offset, dst.offset, len].iter().any(|v| !v.is_multiple_of(WORD)) {
            let mut bytes = vec![0; len as usize];
            self.download_bytes(src, &mut bytes)?;
            return self.upload_bytes(dst, &bytes);
        }
        if src.block != dst.block {
            self.stream.encoder().copy_buffer_to_buffer(&from, src.offset, &to, dst.offset, len);
            return self.loss.check();
        }
        // wgpu does not copy within one buffer.
        use wgpu::BufferUsages as Usage;
        let between = self.buffer(len.min(CHUNK), Usage::COPY_SRC | Usage::COPY_DST)?;
        let encoder = self.stream.encoder();
        for at in (0..len).step_by(CHUNK as usize) {
            let part = CHUNK.min(len - at);
            encoder.copy_buffer_to_buffer(&from, src.offset + at, &between, 0, part);
            encoder.copy_buffer_to_buffer(&between, 0, &to, dst.offset + at, part);
        }
        self.loss.check()
    }
}

//! Which buffers hold the output of an op that failed, and why. Pure; both engines keep one, so that readers
//! of a failed output get the first cause and everything else lives on.

use crate::error::Error;
use crate::op::{BoundOp, BufferId};
use std::collections::HashMap;

/// Failed buffers and the first cause of each.
#[derive(Debug, Default)]
pub struct Poison(HashMap<BufferId, Error>);

impl Poison {
    /// Whether no buffer failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Why the buffer cannot be read, if it cannot.
    pub fn of(&self, buffer: BufferId) -> Option<&Error> {
        // The map is empty in every healthy program: the common case is one comparison.
        if self.0.is_empty() { None } else { self.0.get(&buffer) }
    }

    /// The cause that the op inherits from an operand it reads, if one failed.
    pub fn inherited(&self, op: &BoundOp) -> Option<&Error> {
        if self.0.is_empty() { None } else { op.read().find_map(|buffer| self.of(buffer)) }
    }

    /// Marks the op's outputs failed. A buffer keeps its first cause.
    pub fn fail(&mut self, op: &BoundOp, cause: &Error) {
        op.written().for_each(|buffer| self.fail_buffer(buffer, cause));
    }

    /// Marks the outputs of all ops of a program failed.
    pub fn fail_all(&mut self, ops: &[BoundOp], cause: &Error) {
        ops.iter().for_each(|op| self.fail(op, cause));
    }

    /// Marks one buffer failed. It keeps its first cause.
    pub fn fail_buffer(&mut self, buffer: BufferId, cause: &Error) {
        self.0.entry(buffer).or_insert_with(|| cause.clone());
    }

    /// Forgets a buffer that was freed.
    pub fn clear(&mut self, buffer: BufferId) {
        self.0.remove(&buffer);
    }
}

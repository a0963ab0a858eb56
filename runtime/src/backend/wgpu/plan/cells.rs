//! The geometry of a quantisation: the float tensor as lines, cut into cells that share a scale.

use super::{dim, numel};
use crate::op::{CheckedOp, Quantize, QuantizeFormat};

/// Side of a block, and elements of a group.
const BLOCK: u64 = 128;
const GROUP: u64 = 32;

/// The cells of a tensor.
pub(in super::super) struct Cells {
    /// Columns and lines of a cell.
    pub(in super::super) width: u64,
    pub(in super::super) height: u64,
    /// Cells of a line, and of a matrix from top to bottom.
    pub(in super::super) across: u64,
    pub(in super::super) down: u64,
    /// Lines of a matrix, elements of a line.
    pub(in super::super) m: u64,
    pub(in super::super) n: u64,
    /// Cells in all.
    pub(super) count: u64,
}

impl Cells {
    pub(in super::super) fn of(op: &CheckedOp, quantize: &Quantize) -> Self {
        let wide = if quantize.inverse { "out" } else { "x" };
        let n = dim(op, wide, 0);
        let shape = op.spec(wide).map(|spec| *spec.layout.shape()).unwrap_or_default();
        let lines = shape.iter().rev().skip(1).fold(1u64, |lines, &d| lines.saturating_mul(d));
        let [width, height, m] = match quantize.format {
            QuantizeFormat::Tensor => [n, lines, lines],
            QuantizeFormat::Row => [n, 1, lines],
            QuantizeFormat::Block1x128 => [n.min(BLOCK), 1, lines],
            QuantizeFormat::Block128x128 => {
                let m = dim(op, wide, 1);
                [n.min(BLOCK), m.min(BLOCK), m]
            }
            QuantizeFormat::Group32 => [n.min(GROUP), 1, lines],
        };
        let (across, down) = match quantize.format {
            QuantizeFormat::Tensor => (1, 1),
            QuantizeFormat::Row => (1, lines),
            _ => (n.div_ceil(width.max(1)), m.div_ceil(height.max(1))),
        };
        // There are as many as the scale has elements.
        let count = u64::try_from(numel(op, "scale")).unwrap_or(u64::MAX);
        Self { width, height, across, down, m, n, count }
    }
}

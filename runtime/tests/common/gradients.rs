//! Tables of the gradients' cases; see `tables`.

use super::case::{Case, Fill, Operand, Style};
use super::cover::all_pairs;
use super::tables::{FLOATS, IN_STYLES, NORMAL, OFFSETS, ROW_STYLES, ROWS};
use leasehold::DType::{F16, F32};
use leasehold::op::{NormBackward, NormKind};

pub fn norm_backward() -> Vec<Case> {
    let mut cases = Vec::new();
    for row in all_pairs(&[ROWS.len(), 5, 5, 4, 3, 3, 3, 2, 2, 3]) {
        let (shape, input) = (ROWS[row[0]], IN_STYLES[row[1]]);
        let (dtype, gradient, d_x) = (FLOATS[row[4]], FLOATS[row[5]], FLOATS[row[6]]);
        let kind = [NormKind::Layer, NormKind::Rms][row[7]];
        let weight = row[8] == 1;
        let offset = OFFSETS[row[9]];
        let n = &shape[shape.len() - 1..];
        let mut operands = vec![Operand::new(dtype, shape, input, offset, NORMAL)];
        operands.extend(weight.then(|| Operand::new(F16, n, Style::Gapped, offset, NORMAL)));
        operands.extend([
            Operand::new(gradient, shape, IN_STYLES[row[2]], offset, NORMAL),
            Operand::out(d_x, shape, ROW_STYLES[row[3]], offset),
            Operand::out(F32, shape, ROW_STYLES[row[1] % 4], offset),
        ]);
        // A row of one element, or the same element repeated, has no deviation to divide by.
        let flat = n[0] == 1 || (input == Style::Repeat && shape.len() == 1);
        let epsilon = if flat { 1e-2 } else { 1e-5 };
        cases.push(Case::new(NormBackward { kind, epsilon, weight }, operands));
    }
    cases
}

//! `gather`: rows of the table by index; zeros where the index, as unsigned 32 bits, is not below the rows.

use super::Inputs;

pub(super) fn gather(inputs: &Inputs) -> Vec<f64> {
    let (table, index) = (inputs.need("table"), inputs.need("index"));
    let rows = table.shape.first().copied().unwrap_or(0);
    let inner = table.shape.iter().skip(1).product::<u64>() as usize;
    let mut out = Vec::with_capacity(index.data.len() * inner);
    for &i in &index.data {
        // Signed indices are read as their unsigned bits.
        let row = u64::from(i as i64 as u32);
        if row < rows {
            let start = row as usize * inner;
            out.extend_from_slice(&table.data[start..start + inner]);
        } else {
            out.extend(std::iter::repeat_n(0.0, inner));
        }
    }
    out
}

//! Mistakes with indices that name matrices: in the list that is made of them, and in how products read it.

use crate::case::named::Names;
use crate::case::{Case, Out};
use crate::model::{Model, Order};
use crate::{Mutant, mutant};
use leasehold_kernels::{MatmulIndices, MatrixPair, Row, rows};

pub(crate) const INDICES: &str = "cuda/matmul_indices.cu";
pub(crate) const SM90: &str = "cuda/matmul_sm90.cu";
const PLACE: &str = "cuda/tile/place.h";

pub(crate) const MUTANTS: &[Mutant] = &[
    // An index that names no matrix is used.
    mutant(INDICES, "if (index >= side.matrices) {", "if (false) {", "ended"),
    mutant(
        INDICES,
        "if (index >= side.matrices) {",
        "if ((i32)index >= (i32)side.matrices) {",
        "ended",
    ),
    mutant(INDICES, "return index * side.step;", "return index * args.a.step;", "bits"),
    // Of the wrong side, or of one side alone.
    mutant(
        INDICES,
        "named(args.b, args, args.first + own)",
        "named(args.a, args, args.first + own)",
        "bits",
    ),
    mutant(INDICES, "a != NO_MATRIX && b != NO_MATRIX", "a != NO_MATRIX", "ended"),
    mutant(INDICES, "own >= args.count", "own > args.count", "bits"),
    mutant(PLACE, "part.b = is ? pair.b : 0;", "part.b = is ? pair.a : 0;", "bits"),
    mutant(PLACE, "    part.k_to = is ? part.k_to : part.k_from;\n", "", "bits"),
    mutant("cuda/matmul_sm80.cu", "part.entry, part.b)", "part.entry)", "bits"),
    mutant("cuda/matmul_sm90.cu", "S::SWAPPED ? part.a : part.b);", "part.a);", "bits"),
];

/// The list's row, and one of the products that read it: by boxes where their kernel is the file, else by addresses.
pub(crate) fn subjects(file: &str) -> Vec<Row> {
    let key = match file {
        SM90 => "matmul_sm90_bf16_kk_128x64",
        _ => "matmul_sm80_bf16_kk_64x64",
    };
    let row = rows().into_iter().find(|row| row.key() == key);
    vec![row.expect("a row of the table"), Row::MatmulIndices(MatmulIndices)]
}

/// What a list and the product by it say first.
pub(crate) fn verdict(row: Row, model: &mut Model) -> String {
    let entries = 5;
    let case = Case::with(row, Out::Odd, entries, [70, 72, 136], 3);
    let names = Names::new([1, 1, 1, entries as u32], [entries as u32; 2], 4);
    let listed = names.run(model, case.steps(), [0, entries as u32]);
    if !listed.found.is_empty() {
        return listed.found;
    }
    let list = listed.buffers[2].clone();
    if list[entries * size_of::<MatrixPair>()..] != [0xa5; 16] {
        return "bits: past the list".into();
    }
    let case = case.by_index(&names.named(), list);
    let outcome = case.run(model, Order::Late);
    match case.check(&outcome) {
        _ if !outcome.found.is_empty() => outcome.found,
        Ok(()) => "nothing".into(),
        Err(wrong) => format!("bits: {wrong}"),
    }
}

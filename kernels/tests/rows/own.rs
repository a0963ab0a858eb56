//! The test of each row that is the row's own: it runs it in small cases with tails, the first of them under sanitizers too
//! where the row is due. A row that its own test does not run, or a kernel that has none, is an error.

use crate::model::{Model, witness};
use crate::{
    along, attention, elements, entries, gradients, grouped, indices, matmul, named, products,
    quantized, scaled, selections,
};
use leasehold_kernels::{MatmulReference, Row, Streaming, StreamingReference, rows};

macro_rules! own {
    ($($start:ident, $module:ident::$test:ident: $rows:pat,)*) => {
        /// The name of a row's own test.
        fn test_of(row: &Row) -> &'static str {
            match row {
                $($rows => stringify!($test),)*
            }
        }

        $(#[test]
        fn $test() {
            run_own(stringify!($test), Model::$start, $module::$test);
        })*
    };
}

own! {
    plain, products::the_reference_takes_every_type:
        Row::MatmulReference(MatmulReference { finds: false }),
    plain, scaled::the_reference_gives_outputs_of_bytes_their_scales:
        Row::MatmulReference(MatmulReference { finds: true }),
    plain, products::tiles_of_f32_have_the_bits_of_the_reference: Row::MatmulF32(_),
    plain, grouped::sizes_of_any_kind_become_groups_that_fit: Row::MatmulGroups(_),
    plain, named::indices_of_any_kind_become_matrices_that_there_are: Row::MatmulIndices(_),
    start, matmul::every_row_multiplies_in_every_order: Row::MatmulSm80(_) | Row::MatmulSm90(_),
    start, matmul::splits_of_k_give_equal_bits_in_every_form: Row::MatmulMerge(_),
    start, scaled::every_row_of_bytes_multiplies_in_every_order:
        Row::MatmulSm80Bytes(_) | Row::MatmulSm90Fp8(_),
    attention, attention::every_row_attends_in_every_order:
        Row::AttentionSm80(_)
        | Row::AttentionSm90(_)
        | Row::AttentionPaged(_)
        | Row::AttentionCombine(_)
        | Row::AttentionReference(_),
    attention, entries::counts_of_any_kind_become_entries_that_fit: Row::AttentionEntries(_),
    attention, gradients::every_row_is_right_in_every_order:
        Row::AttentionBackwardSm80(_)
        | Row::AttentionBackwardSm90(_)
        | Row::AttentionBackwardReference(_)
        | Row::AttentionBackwardRows(_),
    plain, elements::copies_move_bits: Row::Streaming(Streaming::Copy(_))
        | Row::StreamingReference(StreamingReference::Copy),
    plain, elements::copies_turn: Row::Streaming(Streaming::CopyTurned(_)),
    plain, elements::every_function_maps: Row::Streaming(Streaming::Map(_))
        | Row::StreamingReference(StreamingReference::Map),
    plain, elements::integers_wrap_and_repeat: Row::Streaming(Streaming::MapIntegers),
    plain, along::norms_agree: Row::Streaming(Streaming::Norm(_))
        | Row::StreamingReference(StreamingReference::Norm),
    plain, along::gradients_of_norms_agree: Row::Streaming(Streaming::NormBackward(_))
        | Row::StreamingReference(StreamingReference::NormBackward),
    plain, along::softmaxes_agree_and_hide: Row::Streaming(Streaming::Softmax(_))
        | Row::StreamingReference(StreamingReference::Softmax),
    plain, along::reductions_agree:
        Row::Streaming(Streaming::Reduce(_) | Streaming::ReduceAcross)
        | Row::StreamingReference(StreamingReference::Reduce),
    plain, indices::gathers_select_and_refuse: Row::Streaming(Streaming::Gather(_))
        | Row::StreamingReference(StreamingReference::Gather),
    plain, indices::the_last_of_equal_indices_sets: Row::Streaming(Streaming::Scatter(_))
        | Row::StreamingReference(StreamingReference::Scatter),
    plain, indices::sums_scatter_in_order: Row::Streaming(Streaming::ScatterAdd)
        | Row::StreamingReference(StreamingReference::ScatterAdd),
    plain, indices::pairs_turn_by_their_position: Row::Streaming(Streaming::Rope)
        | Row::StreamingReference(StreamingReference::Rope),
    plain, selections::the_first_largest_is_found: Row::Streaming(Streaming::ArgMax(_))
        | Row::StreamingReference(StreamingReference::ArgMax),
    plain, selections::the_k_largest_are_sorted: Row::Streaming(Streaming::TopK(_))
        | Row::StreamingReference(StreamingReference::TopK),
    plain, quantized::rows_and_tensors_have_one_scale: Row::Streaming(Streaming::QuantizeRows(_))
        | Row::StreamingReference(StreamingReference::QuantizeRows),
    plain, quantized::cells_have_scales_of_their_own:
        Row::Streaming(Streaming::QuantizeCells | Streaming::Dequantize)
        | Row::StreamingReference(StreamingReference::QuantizeCells | StreamingReference::Dequantize),
}

/// Runs a test, which must run every row that is its own, those that are due under sanitizers too.
fn run_own(name: &str, start: fn() -> Option<Model>, test: fn(&mut Model)) {
    let Some(mut model) = start() else { return };
    let own: Vec<Row> = rows().into_iter().filter(|row| test_of(row) == name).collect();
    let due = model.watch(&own);
    test(&mut model);
    for row in &own {
        let wanted = [true, due.contains(row)];
        assert_eq!(model.has_run(row), wanted, "{}: whether it ran, and sanitized", row.key());
    }
    if is_writing() {
        witness::keep(&due);
    }
}

fn is_writing() -> bool {
    std::env::var("LEASEHOLD_WRITE_GOLDEN").is_ok_and(|value| value == "1")
}

#[test]
fn every_row_has_run_under_sanitizers_since_it_changed() {
    if is_writing() {
        // Their own tests write what they have run.
        return witness::keep(&[]);
    }
    let stale = witness::stale();
    assert!(
        stale.is_empty(),
        "these changed: all of these tests with LEASEHOLD_WRITE_GOLDEN=1 run them under sanitizers, and write: {stale:?}"
    );
}

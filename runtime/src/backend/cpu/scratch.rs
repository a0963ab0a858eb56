//! Per-thread buffers that kernels reuse from item to item. Written before they are read.

use super::dot::{Line, Tile};
use super::few::Factors;
use super::flash::Buffers;
use super::regions::Reused;
use std::cell::RefCell;

thread_local! {
    static ROWS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
    static TILES: RefCell<[Vec<f32>; 4]> = const { RefCell::new([const { Vec::new() }; 4]) };
    static FACTORS: RefCell<Factors> = RefCell::default();
    static PACKED: RefCell<[Reused<Tile>; 2]> = RefCell::default();
    static COLUMNS: RefCell<Reused<Tile>> = RefCell::default();
    static LANES: RefCell<Buffers> = RefCell::default();
    static LINES: RefCell<[Reused<Line>; 2]> = RefCell::default();
    static SHARED: RefCell<Reused<Line>> = RefCell::default();
}

/// Two row buffers.
pub(super) fn with_rows<R>(f: impl FnOnce([&mut Vec<f32>; 2]) -> R) -> R {
    ROWS.with_borrow_mut(|[a, b]| f([a, b]))
}

/// Four tile buffers.
pub(super) fn with_tiles<R>(f: impl FnOnce([&mut Vec<f32>; 4]) -> R) -> R {
    TILES.with_borrow_mut(|[a, b, c, d]| f([a, b, c, d]))
}

/// The packed rows of A of a product of few.
pub(super) fn with_factors<R>(f: impl FnOnce(&mut Factors) -> R) -> R {
    FACTORS.with_borrow_mut(f)
}

/// Two packed sides of a product of bf16.
pub(super) fn with_packed<R>(f: impl FnOnce([&mut Reused<Tile>; 2]) -> R) -> R {
    PACKED.with_borrow_mut(|[a, b]| f([a, b]))
}

/// Packed columns of bf16, for all threads of a launch.
pub(super) fn with_columns<R>(f: impl FnOnce(&mut Reused<Tile>) -> R) -> R {
    COLUMNS.with_borrow_mut(f)
}

/// Buffers of attention on lanes.
pub(super) fn with_lanes<R>(f: impl FnOnce(&mut Buffers) -> R) -> R {
    LANES.with_borrow_mut(f)
}

/// Two packed sides of a product.
pub(super) fn with_lines<R>(f: impl FnOnce([&mut Reused<Line>; 2]) -> R) -> R {
    LINES.with_borrow_mut(|[a, b]| f([a, b]))
}

/// What a launch packs for all its threads.
pub(super) fn with_shared<R>(f: impl FnOnce(&mut Reused<Line>) -> R) -> R {
    SHARED.with_borrow_mut(f)
}

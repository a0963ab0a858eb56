//! Ops of several passes, each of which must end before the next begins: plans of one tile, whose links are steps of the
//! passes in turn. What passes hand on is the tile's state. Planners count with it, `encode` turns a span's links into parts.

use crate::order::Span;
use std::ops::Range;

/// A pass over items that no other item of the pass waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Pass {
    pub(in super::super) items: u64,
    /// Items of a link.
    pub(in super::super) step: u64,
}

impl Pass {
    fn links(&self) -> u64 {
        self.items.div_ceil(self.step.max(1))
    }
}

/// Links of all passes.
pub(in super::super) fn links(passes: &[Pass]) -> u64 {
    passes.iter().fold(0, |n, pass| n.saturating_add(pass.links()))
}

/// What the links of a span do: runs of items, each with the number of its pass, in order.
pub(in super::super) fn parts(passes: &[Pass], span: Span) -> Vec<(usize, Range<u64>)> {
    let (mut parts, mut first) = (Vec::new(), 0);
    for (number, pass) in passes.iter().enumerate() {
        let end = first + pass.links();
        let (from, to) = (span.from.clamp(first, end) - first, span.to.clamp(first, end) - first);
        if from < to {
            parts.push((number, from * pass.step..pass.items.min(to * pass.step)));
        }
        first = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_of_every_pass_is_in_one_link_and_passes_follow_each_other() {
        let passes = [(5, 2), (0, 3), (1, 1), (7, 7), (6, 2)];
        let passes = passes.map(|(items, step)| Pass { items, step });
        let all: Vec<(usize, u64)> =
            (0..5).flat_map(|p| (0..passes[p].items).map(move |i| (p, i))).collect();
        assert_eq!(links(&passes), 3 + 1 + 1 + 3);
        for cut in 0..=8 {
            let span = |from, to| Span { first: 0, tiles: 1, from, to };
            let parts = [parts(&passes, span(0, cut)), parts(&passes, span(cut, 8))].concat();
            let got: Vec<_> =
                parts.into_iter().flat_map(|(p, items)| items.map(move |i| (p, i))).collect();
            assert_eq!(got, all);
        }
    }
}

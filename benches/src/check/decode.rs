//! Query rows over a cache of keys and values, in shuffled pages or in one tensor, with windows of single rows. `problem`
//! builds it, `shapes` and `lists` name its sizes.

use super::data::{Given, dense, next, shuffled};
use super::heads::{row_window, seen};
use super::problem::{BYTES, Built, GIGA, spots};
use leasehold::op::{Attention, KeyValue, Lens, Scores};
use leasehold::{DType, Result};
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;

/// Rows that are checked at places drawn by the seed.
const DRAWN: usize = 5;
/// Beyond so many keys the reference is slow: the last entry, head and row then, and one that is drawn.
const LONG: u64 = 1 << 16;

/// Sizes of a step over a cache.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Decode {
    /// Entries.
    pub(super) batch: u64,
    /// Query heads and key heads.
    pub(super) heads: [u64; 2],
    /// Query rows of each entry.
    pub(super) rows: u64,
    /// Most keys of an entry.
    pub(super) keys: u64,
    /// Of a head.
    pub(super) dim: u64,
    /// Keys a page; 0 where keys lie in one tensor.
    pub(super) page: u64,
    /// Whether entries have keys of any number from one a row to `keys`, drawn by the seed, or all of them.
    pub(super) varied: bool,
}

impl Decode {
    pub(super) fn label(&self) -> String {
        let Self { batch, heads: [q, kv], rows, keys, dim, page, varied } = self;
        let rows = if *rows == 1 { String::new() } else { format!("{rows} rows, ") };
        let to = if *varied { "to " } else { "" };
        let pages = if *page == 0 { "no pages".into() } else { format!("pages of {page}") };
        format!("batch {batch}, {rows}{q} heads on {kv}, {to}{keys} keys of {dim}, {pages}")
    }

    /// Whether the same caches are laid in other pages too: where few windows look at the result, and where it costs nothing.
    pub(super) fn is_moved(&self) -> bool {
        self.page > 0 && !(1 << 10..=LONG).contains(&self.keys)
    }

    /// The same caches in other pages: the result is the same, byte for byte, wherever a page lies.
    pub(super) fn moved(&self, built: &Built, seed: u64) -> Built {
        let mut moved = built.clone();
        // Where each page goes.
        let to = shuffled(self.batch * self.keys.div_ceil(self.page), !seed);
        for given in &mut moved.given {
            match given.name {
                "pages" => {
                    let named = given.as_words().into_iter().map(|page| to[page as usize]);
                    let (shape, named) =
                        (given.spec.layout.shape().to_vec(), named.collect::<Vec<_>>());
                    *given = Given::words("pages", &shape, &named);
                }
                "k" | "v" => {
                    let size = given.bytes.len() / to.len();
                    let mut bytes = vec![0; given.bytes.len()];
                    for (page, &to) in given.bytes.chunks_exact(size).zip(&to) {
                        bytes[to as usize * size..][..size].copy_from_slice(page);
                    }
                    given.bytes = Arc::new(bytes);
                }
                _ => {}
            }
        }
        moved
    }

    fn lens(&self, seed: u64) -> Vec<u32> {
        let (mut state, least) = (seed, self.rows.min(self.keys));
        let mut one = || match self.varied {
            true => (least + next(&mut state) % (self.keys - least + 1)) as u32,
            false => self.keys as u32,
        };
        (0..self.batch).map(|_| one()).collect()
    }

    pub(super) fn build(&self, seed: u64) -> Result<Built> {
        let Self { batch, heads: [heads, kv], rows, keys, dim, page, .. } = *self;
        let (dtype, lens) = (DType::BF16, self.lens(seed));
        let each = keys.div_ceil(page.max(1));
        let pages = if page > 0 { shuffled(batch * each, seed) } else { Vec::new() };
        let store = match page {
            0 => [batch, kv, keys, dim],
            page => [batch * each, kv, page, dim],
        };
        let q = [batch, heads, rows, dim];
        let mut given = vec![
            Given::normal("q", dense(dtype, &q), seed),
            Given::normal("k", dense(dtype, &store), seed),
            Given::normal("v", dense(dtype, &store), seed),
            Given::words("lens", &[batch], &lens),
        ];
        given.extend((page > 0).then(|| Given::words("pages", &[batch, each], &pages)));
        let key_value = match page {
            0 => KeyValue::Dense,
            page => KeyValue::Paged { page: page as u32 },
        };
        let scale = 1.0 / (dim as f32).sqrt();
        let plain = Scores { scale, ..Scores::default() };
        let lens_of = Lens::Device { max: keys as u32 };
        let scores = Scores { causal: true, lens: lens_of, ..plain.clone() };
        let op = Attention { scores, key_value, ..Attention::default() };
        // What a step must read: keys and values of every entry, once.
        let read: u64 = lens.iter().map(|&len| u64::from(len)).sum();
        let bytes = 2 * kv * read * dim * dtype.size();
        let mut built = Built::new(op, given, &[dense(dtype, &q)], (bytes as f64 / GIGA, BYTES))?;
        let axes = [(batch, 1), (heads, 1), (rows, 1)];
        let (from, windows) = if keys > LONG { (2, 2) } else { (0, 3 + DRAWN) };
        for [entry, head, row] in spots(axes, DRAWN, seed).into_iter().skip(from).take(windows) {
            let group = head.start / (heads / kv);
            let len = u64::from(lens[entry.start as usize]);
            let keys = seen(row.start, [rows, len], true, None);
            let at = ((entry.start * heads + head.start) * rows + row.start) * dim;
            let q = built.given[0].cut(&[entry.clone(), head, row, 0..dim]);
            let [k, v] = [1, 2].map(|which| {
                let of = &built.given[which];
                match page {
                    0 => of.cut(&[entry.clone(), group..group + 1, keys.clone(), 0..dim]),
                    page => {
                        let of_entry = &pages[(entry.start * each) as usize..];
                        paged(of, of_entry, (group, page, dim), keys.clone())
                    }
                }
            });
            built.windows.push(row_window(plain.clone(), dtype, [q, k, v], [dim; 2], at)?);
        }
        Ok(built)
    }
}

/// Keys of one head from their pages, from the entry's first on.
fn paged(
    of: &Given,
    pages: &[u32],
    (head, page, dim): (u64, u64, u64),
    keys: Range<u64>,
) -> Vec<u8> {
    let of_page = |i: u64| {
        let (at, held) = (u64::from(pages[i as usize]), page.min(keys.end - i * page));
        of.cut(&[at..at + 1, head..head + 1, 0..held, 0..dim])
    };
    (0..keys.end.div_ceil(page)).flat_map(of_page).collect()
}

//! Pairwise covers: every pair of choices of every two factors occurs in some row, as far as rows may cost.

use std::cmp::Reverse;

/// Rows of choices, one a factor, that cover every pair of `sizes` that any row of at most `limit` work has. The
/// first choice of a factor is its cheapest: what fits with it undecided can be decided. Greedy, deterministic, and
/// cheap where nothing else decides.
pub fn pairwise(sizes: &[usize], limit: u64, work: impl Fn(&[usize]) -> u64) -> Vec<Vec<usize>> {
    let mut open = std::collections::BTreeSet::new();
    for (i, j) in (0..sizes.len()).flat_map(|i| (i + 1..sizes.len()).map(move |j| (i, j))) {
        for (a, b) in (0..sizes[i]).flat_map(|a| (0..sizes[j]).map(move |b| (a, b))) {
            open.insert((i, a, j, b));
        }
    }
    let mut rows: Vec<Vec<usize>> = Vec::new();
    while let Some((i, a, j, b)) = open.pop_first() {
        let mut row = vec![0; sizes.len()];
        (row[i], row[j]) = (a, b);
        if work(&row) > limit {
            continue;
        }
        let mut decided = vec![i, j];
        for f in (0..sizes.len()).filter(|&f| f != i && f != j) {
            let gain = |c: usize| {
                let pair = |&g: &usize| if g < f { (g, row[g], f, c) } else { (f, c, g, row[g]) };
                decided.iter().filter(|g| open.contains(&pair(g))).count()
            };
            let cost = |c: usize| {
                let mut with = row.clone();
                with[f] = c;
                work(&with)
            };
            // The row's number turns the choices that nothing decides, so that they vary too.
            let turned = (0..sizes[f]).map(|c| (c + rows.len()) % sizes[f]);
            let fits = turned.rev().filter(|&c| cost(c) <= limit);
            row[f] = fits.max_by_key(|&c| (gain(c), Reverse(cost(c)))).unwrap_or(0);
            decided.push(f);
        }
        for (i, j) in (0..sizes.len()).flat_map(|i| (i + 1..sizes.len()).map(move |j| (i, j))) {
            open.remove(&(i, row[i], j, row[j]));
        }
        rows.push(row);
    }
    rows
}

/// A cover of all pairs.
pub fn all_pairs(sizes: &[usize]) -> Vec<Vec<usize>> {
    pairwise(sizes, 0, |_| 0)
}

#[test]
fn a_cover_covers_all_pairs_that_fit() {
    let sizes = [5, 3, 4, 2];
    for limit in [3, 6, u64::MAX] {
        let work = |row: &[usize]| row.iter().sum::<usize>() as u64;
        let rows = pairwise(&sizes, limit, work);
        assert!(rows.iter().all(|row| work(row) <= limit) && rows.len() < 40);
        for (i, j) in (0..4).flat_map(|i| (i + 1..4).map(move |j| (i, j))) {
            for (a, b) in (0..sizes[i]).flat_map(|a| (0..sizes[j]).map(move |b| (a, b))) {
                let covered = rows.iter().any(|row| row[i] == a && row[j] == b);
                assert_eq!(
                    covered,
                    (a + b) as u64 <= limit,
                    "{a} of factor {i} with {b} of factor {j}"
                );
            }
        }
    }
}

//! Pairwise covers: every pair of choices of every two factors occurs in some row.

/// Rows of choices, one a factor, that cover all pairs of `sizes`. Greedy and deterministic.
pub fn pairwise(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut open = std::collections::BTreeSet::new();
    for i in 0..sizes.len() {
        for j in i + 1..sizes.len() {
            for (a, b) in (0..sizes[i]).flat_map(|a| (0..sizes[j]).map(move |b| (a, b))) {
                open.insert((i, a, j, b));
            }
        }
    }
    let mut rows = Vec::new();
    while let Some(&(i, a, j, b)) = open.first() {
        let mut row = vec![None; sizes.len()];
        (row[i], row[j]) = (Some(a), Some(b));
        // The row's number turns the choices that nothing decides, so that they vary too.
        for f in 0..sizes.len() {
            if row[f].is_some() {
                continue;
            }
            let gain = |c: usize| {
                let pair = |g: usize, d: usize| if g < f { (g, d, f, c) } else { (f, c, g, d) };
                let decided = row.iter().enumerate().filter_map(|(g, d)| d.map(|d| (g, d)));
                decided.filter(|&(g, d)| open.contains(&pair(g, d))).count()
            };
            let turned = (0..sizes[f]).map(|c| (c + rows.len()) % sizes[f]);
            row[f] = turned.rev().max_by_key(|&c| gain(c));
        }
        let row: Vec<usize> = row.into_iter().map(Option::unwrap_or_default).collect();
        for i in 0..sizes.len() {
            for j in i + 1..sizes.len() {
                open.remove(&(i, row[i], j, row[j]));
            }
        }
        rows.push(row);
    }
    rows
}

#[test]
fn a_cover_covers_all_pairs() {
    let sizes = [5, 3, 4, 2];
    let rows = pairwise(&sizes);
    for (i, j) in (0..4).flat_map(|i| (i + 1..4).map(move |j| (i, j))) {
        for (a, b) in (0..sizes[i]).flat_map(|a| (0..sizes[j]).map(move |b| (a, b))) {
            assert!(rows.iter().any(|row| row[i] == a && row[j] == b));
        }
    }
    assert!(rows.len() < 40);
}

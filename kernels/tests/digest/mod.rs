//! Digests of rows by all that they are compiled from, which tell whether a row changed since something was seen of it. The
//! tests of `compiled` and of `rows` keep them.

use leasehold_kernels::{Row, SOURCES};
use std::collections::BTreeSet;

/// Of a row, the sources that it includes, and what else it depends on.
pub(crate) fn of<'a>(row: &Row, rest: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(row.source().as_bytes());
    let mut read = BTreeSet::new();
    includes(&row.source(), &mut read);
    SOURCES.iter().filter(|(name, _)| read.contains(name)).for_each(|(name, text)| {
        hash.update(name.as_bytes()).update(text.as_bytes());
    });
    rest.into_iter().for_each(|part| {
        hash.update(part.as_bytes());
    });
    hash.finalize().to_hex()[..16].into()
}

/// The sources that a text includes, and those that they do.
fn includes(text: &str, read: &mut BTreeSet<&'static str>) {
    for (name, source) in SOURCES {
        if text.contains(&format!("#include \"{name}\"")) && read.insert(name) {
            includes(source, read);
        }
    }
}

//! The machine code of every row of one architecture, and the kernels loaded from it. It comes whole from a pack, or row by
//! row from the cache and the compiler, before the device is used: what can change a result is then known, and no op waits
//! for a compiler. `mod` calls it.

use super::cache::{Cache, key};
use super::compiler::Compiler;
use super::driver::{Context, Function};
use super::pack::{Pack, each, of_arch};
use crate::backend::digest;
use crate::error::{Error, Kind, Result};
use leasehold_kernels::Row;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Machine code by row.
pub(super) type Cubins = BTreeMap<String, Vec<u8>>;

/// What a pack has for an architecture.
///
/// # Errors
/// `NoDevice` with the first row that it lacks.
pub(super) fn packed(pack: &Pack, arch: &str) -> Result<Cubins> {
    let cubin = |row: Row| match pack.cubin(&row, arch) {
        Some(cubin) => Ok((row.key(), cubin.to_vec())),
        None => Err(Kind::NoDevice {
            why: format!("the kernels' file has no {} for {arch}: build it again", row.key()),
        }
        .into()),
    };
    of_arch(arch).map(cubin).collect()
}

/// What the cache has, and what the compiler makes of the rest.
///
/// # Errors
/// `NoDevice` when there is no compiler, `Unsupported` when it refuses a row.
pub(super) fn compiled(arch: &str) -> Result<Cubins> {
    let compiler = Compiler::open().map_err(|why| -> Error { Kind::NoDevice { why }.into() })?;
    // Without a cache every process compiles for itself.
    let cache = Cache::open("kernels").ok().filter(|_| compiler.is_known());
    let rows: Vec<Row> = of_arch(arch).collect();
    let cubins = each(&rows, |row| cached(&compiler, cache.as_ref(), row, arch))?;
    cache.iter().for_each(Cache::tidy);
    Ok(rows.iter().map(Row::key).zip(cubins).collect())
}

/// A row's machine code, from the cache or into it.
pub(super) fn cached(
    compiler: &Compiler,
    cache: Option<&Cache>,
    row: &Row,
    arch: &str,
) -> Result<Vec<u8>> {
    let key = key(row, arch, compiler.version());
    if let Some(cubin) = cache.and_then(|cache| cache.load(&key)) {
        return Ok(cubin);
    }
    let cubin = compiler.compile(row, arch)?;
    // A full disk costs time, no result.
    let _ = cache.map(|cache| cache.store(&key, &cubin));
    Ok(cubin)
}

/// The kernels of a device.
pub(super) struct Kernels {
    cubins: Cubins,
    loaded: HashMap<Row, Function>,
}

impl Kernels {
    pub(super) fn new(cubins: Cubins) -> Self {
        Self { cubins, loaded: HashMap::new() }
    }

    /// Everything about the machine code that can change a result: all of it.
    pub(super) fn digest(&self) -> [u8; 32] {
        let parts: Vec<&[u8]> =
            self.cubins.iter().flat_map(|(key, code)| [key.as_bytes(), code]).collect();
        digest(&parts)
    }

    /// A row's kernel, loaded when it is first asked for.
    ///
    /// # Errors
    /// `Unsupported`, `OutOfMemory` or `DeviceLost`.
    pub(super) fn get(&mut self, context: &Arc<Context>, row: &Row) -> Result<Function> {
        if let Some(function) = self.loaded.get(row) {
            return Ok(function.clone());
        }
        let key = row.key();
        let Some(cubin) = self.cubins.get(&key) else {
            let allowed = "rows of this architecture".into();
            return Err(Kind::Unsupported { asked: key, allowed }.into());
        };
        let function = Function::new(context, cubin, &key, [row.threads(), row.shared_bytes()])?;
        self.loaded.insert(*row, function.clone());
        Ok(function)
    }
}

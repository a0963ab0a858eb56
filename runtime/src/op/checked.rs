//! The two proofs that backends ask for. [`CheckedOp`]: an op and its specs passed `check`. [`BoundOp`]: its
//! operands lie inside their allocations and overlap only as allowed. Neither can be made any other way, and
//! neither can be deserialised.

use super::Op;
use super::operand::{Access, Role, Spec};
use crate::error::{Error, Result, Rule};
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Names an allocation of one engine. Ids are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u64);

/// Where an operand lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The allocation.
    pub buffer: BufferId,
    /// Byte offset of the view's first element in it.
    pub offset: u64,
    /// Length of the allocation in bytes, by the engine's own table.
    pub len: u64,
}

/// An op whose shapes, dtypes and options obey every rule that does not depend on where operands lie.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedOp {
    op: Op,
    roles: Vec<Role>,
    specs: Vec<Spec>,
}

/// `check` lets no NaN and no negative zero pass, so equality is an equivalence and equal ops have equal bits.
impl Eq for CheckedOp {}

impl Hash for CheckedOp {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.op.code().hash(state);
        self.specs.hash(state);
    }
}

impl CheckedOp {
    /// Only `check` calls this.
    pub(super) fn new(op: Op, roles: Vec<Role>, specs: Vec<Spec>) -> Self {
        Self { op, roles, specs }
    }

    /// The op.
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// Its operands' specs, in the order of [`Op::roles`].
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }

    /// Its operands' roles.
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// The spec of the operand called `name`, if the op has it.
    pub fn spec(&self, name: &str) -> Option<&Spec> {
        self.position(name).map(|i| &self.specs[i])
    }

    /// The place of the operand called `name`, if the op has it.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.roles.iter().position(|role| role.name == name)
    }

    /// The op on these bindings, one per operand.
    ///
    /// # Errors
    /// `Bounds` when a view leaves its allocation, `Layout` when its offset is misaligned or not of the
    /// class that was checked, `Alias` when an output overlaps what it may not.
    pub fn bind(self: &Arc<Self>, bindings: &[Binding]) -> Result<BoundOp> {
        let name = self.op.name();
        if bindings.len() != self.specs.len() {
            let e = Error::rejected(Rule::OperandCount, None, bindings.len(), self.specs.len());
            return Err(e.in_op(name));
        }
        for (i, binding) in bindings.iter().enumerate() {
            self.in_bounds(i, binding).map_err(|e| e.in_op(name))?;
        }
        for (i, role) in self.roles.iter().enumerate() {
            if role.access.writes() {
                self.no_overlap(i, bindings).map_err(|e| e.in_op(name))?;
            }
        }
        Ok(BoundOp { op: Arc::clone(self), bindings: bindings.to_vec() })
    }

    fn in_bounds(&self, i: usize, binding: &Binding) -> Result<()> {
        let (spec, role) = (&self.specs[i], &self.roles[i]);
        let reject = |rule, asked: u128, allowed: u128| {
            Err(Error::rejected(rule, Some(role.name), asked, allowed))
        };
        if !binding.offset.is_multiple_of(spec.dtype.size()) {
            return reject(Rule::Aligned, binding.offset.into(), spec.dtype.size().into());
        }
        if binding.offset % 256 != u64::from(spec.offset_class) {
            let class = u128::from(spec.offset_class);
            return reject(Rule::OffsetClass, (binding.offset % 256).into(), class);
        }
        let end = u128::from(binding.offset) + spec.span_bytes();
        if end > u128::from(binding.len) {
            return reject(Rule::InBounds, end, binding.len.into());
        }
        Ok(())
    }

    /// Output `out` against every other operand (outputs among themselves are seen from both sides).
    fn no_overlap(&self, out: usize, bindings: &[Binding]) -> Result<()> {
        let range = |i: usize| {
            let start = u128::from(bindings[i].offset);
            start..start + self.specs[i].span_bytes()
        };
        let own = range(out);
        for other in (0..bindings.len()).filter(|&i| i != out) {
            let theirs = range(other);
            let apart = bindings[out].buffer != bindings[other].buffer
                || own.end <= theirs.start
                || theirs.end <= own.start
                || own.is_empty()
                || theirs.is_empty();
            let same_view = self.roles[other].access == Access::ReadElement
                && own.start == theirs.start
                && self.specs[out] == self.specs[other];
            if !apart && !same_view {
                let asked = format!(
                    "{} bytes {}..{} with {} bytes {}..{}",
                    self.roles[out].name,
                    own.start,
                    own.end,
                    self.roles[other].name,
                    theirs.start,
                    theirs.end
                );
                let allowed = match self.roles[other].access {
                    Access::ReadElement => "the same view, or none",
                    _ => "none",
                };
                return Err(Error::rejected(
                    Rule::Overlap,
                    Some(self.roles[out].name),
                    asked,
                    allowed,
                ));
            }
        }
        Ok(())
    }
}

/// A checked op on bindings that are inside their allocations and alias only as allowed.
#[derive(Clone, Debug)]
pub struct BoundOp {
    op: Arc<CheckedOp>,
    bindings: Vec<Binding>,
}

impl BoundOp {
    /// The op.
    pub fn op(&self) -> &Arc<CheckedOp> {
        &self.op
    }

    /// Makes equal ops one.
    pub(crate) fn unite(ops: &mut [Self]) {
        let mut seen: HashSet<Arc<CheckedOp>> = HashSet::new();
        for bound in ops {
            match seen.get(&bound.op) {
                Some(same) => bound.op = Arc::clone(same),
                None => {
                    seen.insert(Arc::clone(&bound.op));
                }
            }
        }
    }

    /// Where its operands lie, in the order of [`Op::roles`].
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// The allocations written.
    pub fn written(&self) -> impl Iterator<Item = BufferId> + '_ {
        self.by_access(true)
    }

    /// The allocations read.
    pub fn read(&self) -> impl Iterator<Item = BufferId> + '_ {
        self.by_access(false)
    }

    fn by_access(&self, written: bool) -> impl Iterator<Item = BufferId> + '_ {
        let pairs = self.op.roles.iter().zip(&self.bindings);
        pairs
            .filter(
                move |(role, _)| {
                    if written { role.access.writes() } else { role.access.reads() }
                },
            )
            .map(|(_, binding)| binding.buffer)
    }
}

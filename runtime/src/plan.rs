//! Chooses among a backend's plans and holds them to the caps of the Time contract. Pure. `exec` calls it.

use crate::backend::Caps;
use crate::error::{Kind, Result};
use crate::op::CheckedOp;
use crate::order::Plan;

/// The cheapest plan whose units stay within the device's cap. All candidates share one order, so the choice
/// changes speed, never bits; but for an op that takes any order.
///
/// # Errors
/// `Time` when every candidate's unit is over the cap or its units do not fit 64 bits; `Unsupported` when
/// there is no candidate.
pub fn choose(op: &CheckedOp, candidates: &[Plan], caps: &Caps) -> Result<Plan> {
    let fits =
        |plan: &&Plan| plan.launch_ns(1) <= caps.unit_cap_ns && u64::try_from(plan.units()).is_ok();
    if let Some(plan) = candidates.iter().filter(fits).min_by_key(|plan| plan.total_ns()) {
        return Ok(*plan);
    }
    let name = op.op().name();
    Err(match candidates.iter().map(|plan| u128::from(plan.launch_ns(1))).min() {
        Some(unit) => Kind::Time { asked: unit, allowed: u128::from(caps.unit_cap_ns) },
        None => Kind::Unsupported { asked: format!("{op:?}"), allowed: caps.name.clone() },
    })
    .map_err(|kind: Kind| crate::Error::from(kind).in_op(name))
}

/// Holds a plan to the predicted time that a lease allows one op, in 128 bits.
///
/// # Errors
/// `Time` with both numbers.
pub fn within(plan: &Plan, limit_ns: u128) -> Result<()> {
    if plan.total_ns() <= limit_ns {
        return Ok(());
    }
    Err(Kind::Time { asked: plan.total_ns(), allowed: limit_ns }.into())
}

//! Attention of 8 heads of 64, beside cubek's two forward routines.

use crate::{Both, Case, Cubek, elem};
use cubek::attention::forward::definition::{AttentionGlobalTypes, AttentionOptions};
use cubek::attention::forward::launch::{BlueprintStrategy, Strategy, launch_ref};
use cubek::attention::forward::routines::blackbox_accelerated::BlackboxAcceleratedStrategy;
use leasehold::{Attention, DType};
use leasehold_peers::Result;
use std::rc::Rc;

const HEADS: usize = 8;
const DIM: usize = 64;

/// One batch of 8 heads, keys as many as queries.
///
/// # Errors
/// No memory on the device.
pub fn case(both: &Both, dtype: DType, sequence: usize, causal: bool) -> Result<Case> {
    let shape = [1, HEADS, sequence, DIM];
    let (q, their_q) = both.operand(dtype, shape, 1)?;
    let (k, their_k) = both.operand(dtype, shape, 2)?;
    let (v, their_v) = both.operand(dtype, shape, 3)?;
    let accelerated = BlackboxAcceleratedStrategy { num_planes: 1, seq_q: 1, seq_kv: 1 };
    let routines = [
        ("unit", Strategy::Unit(BlueprintStrategy::Inferred(()))),
        ("accelerated", Strategy::BlackboxAccelerated(BlueprintStrategy::Inferred(accelerated))),
    ];
    let mask = AttentionGlobalTypes::mask_dtype(&both.client);
    let types = AttentionGlobalTypes::from_single_float_dtype(elem(dtype), mask);
    let theirs = routines.into_iter().map(|(how, strategy)| {
        let out = both.output(dtype, &shape);
        let operands = [&their_q, &their_k, &their_v].map(Clone::clone);
        let (into, types) = (out.clone(), types.clone());
        let launch = Rc::new(move |client: &_| {
            let [q, k, v] = operands.clone().map(|x| x.binding());
            let options = AttentionOptions { causal, accumulator_precision: Default::default() };
            let into = into.clone().binding();
            launch_ref(strategy.clone(), client, q, k, v, None, into, &types, options)
                .map_err(|why| format!("{why:?}"))
        });
        Cubek { package: "cubek-attention", how, client: both.client.clone(), out, launch }
    });
    let mask = if causal { "causal" } else { "full" };
    Ok(Case {
        what: format!("attention {dtype} {HEADS}x{sequence}x{DIM} {mask}"),
        theirs: theirs.collect(),
        ours: Box::new(move || {
            let op = Attention::new(&q, &k, &v);
            Ok(if causal { op.causal().run()? } else { op.run()? })
        }),
    })
}

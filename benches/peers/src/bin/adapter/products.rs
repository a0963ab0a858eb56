//! Square products, beside cubek's routines of units and, in f16, of matrix units.

use crate::{Both, Case, Cubek, elem};
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy::{
    DoubleCyclicCmma, DoubleUnit, SimpleCyclicCmma, SimpleUnit,
};
use cubek::matmul::strategy::Strategy;
use cubek::std::InputBinding;
use leasehold::{DType, Matmul};
use leasehold_peers::Result;
use std::rc::Rc;

/// [1, n, n] by [1, n, n].
///
/// # Errors
/// No memory on the device.
pub fn case(both: &Both, dtype: DType, n: usize) -> Result<Case> {
    let shape = [1, n, n];
    let (a, their_a) = both.operand(dtype, shape, 1)?;
    let (b, their_b) = both.operand(dtype, shape, 2)?;
    let mut routines: Vec<(&str, Strategy)> = vec![
        ("simple unit", SimpleUnit(Default::default()).into()),
        ("double unit", DoubleUnit(Default::default()).into()),
    ];
    if dtype == DType::F16 {
        routines.push(("simple cmma", SimpleCyclicCmma(Default::default()).into()));
        routines.push(("double cmma", DoubleCyclicCmma(Default::default()).into()));
    }
    let globals = MatmulGlobalElems { lhs: elem(dtype), rhs: elem(dtype), out: elem(dtype) };
    let theirs = routines.into_iter().map(|(how, strategy)| {
        let out = both.output(dtype, &shape);
        let (a, b, globals) = (their_a.clone(), their_b.clone(), globals.clone());
        let into = out.clone();
        let launch = Rc::new(move |client: &_| {
            let [a, b] = [&a, &b].map(|x| InputBinding::Normal(x.clone().binding(), x.dtype));
            let mut elems = MatmulElems::from_globals(&globals);
            let launched = launch_ref(&strategy, client, a, b, into.clone().binding(), &mut elems);
            launched.map_err(|why| format!("{why:?}"))
        });
        Cubek { package: "cubek-matmul", how, client: both.client.clone(), out, launch }
    });
    Ok(Case {
        what: format!("matmul {dtype} {n}x{n}x{n}"),
        theirs: theirs.collect(),
        ours: Box::new(move || Ok(Matmul::new(&a, &b).run()?)),
    })
}

//! What the CUDA backend plans and is built of, for people: ranked plans with predictions, and the file of kernels. The
//! program prints them; no device is asked.

use leasehold::backend::cuda::{Pack, candidates};
use leasehold::op::{Attention, CheckedOp, Matmul, Op, OrderClass, Spec, check};
use leasehold::order::{Family, Plan};
use leasehold::{DType, Dims, Error, Kind, Layout};
use std::fmt::Write;
use std::path::Path;

/// What an op is asked as.
const FORMS: &str = "`matmul DTYPE [BATCHx]MxNxK` or `attention DTYPE BATCHxHEADSxSEQUENCExDIM`";

/// The plans of an op on an architecture, best first, a line each below their order, and what else may run where the
/// caller takes any order.
///
/// # Errors
/// `Value` for what is no op or architecture, `Unsupported` for what no kernel runs.
pub fn ranked(text: &str, arch: &str) -> Result<String, Error> {
    let op = parse(text)?;
    let plans = candidates(&op, arch)?;
    let mut out = String::new();
    for (i, plan) in plans.iter().enumerate() {
        if i == 0 {
            let _ = writeln!(out, "{}", plan.order);
        }
        let _ = writeln!(out, "{:2}  {}", i + 1, line(&op, plan));
    }
    let others = in_any_order(&op).map_or(Ok(Vec::new()), |op| candidates(&op, arch))?;
    for plan in others.iter().filter(|plan| plan.order.family == Family::Vendor) {
        let _ =
            writeln!(out, "in any order, on a device of one's own where its library is present:");
        let _ = writeln!(out, " -  {}", line(&op, plan));
    }
    Ok(out)
}

/// A plan and what it is predicted.
fn line(op: &CheckedOp, plan: &Plan) -> String {
    let (cost, ns) = (op.cost(), plan.total_ns().max(1) as f64);
    let (units, wave) = (plan.units(), u128::from(plan.wave.max(1)));
    let waves = units.div_ceil(wave);
    let last = units - waves.saturating_sub(1) * wave;
    format!(
        "{:32} {:8} tiles x {} links, {:6} ns a unit, {waves} waves, the last {} % full, predicted {:.1} us, {:.1} TFLOP/s, {:.0} GB/s",
        plan.kernel,
        plan.tiles,
        plan.links,
        plan.unit_ns,
        100 * last / wave,
        ns / 1e3,
        cost.flops as f64 / ns / 1e3,
        cost.bytes as f64 / ns,
    )
}

/// The same product without a word on its order.
fn in_any_order(op: &CheckedOp) -> Option<CheckedOp> {
    let Op::Matmul(matmul) = op.op() else { return None };
    let matmul = Matmul { order: OrderClass::Any, ..matmul.clone() };
    check(matmul.into(), op.specs()).ok()
}

fn parse(text: &str) -> Result<CheckedOp, Error> {
    let refuse = || Error::from(Kind::Value { asked: text.into(), allowed: FORMS.into() });
    let words: Vec<&str> = text.split_whitespace().collect();
    let &[name, dtype, sizes] = &words[..] else { return Err(refuse()) };
    let dtype = DType::ALL.into_iter().find(|d| d.name() == dtype).ok_or_else(refuse)?;
    let sizes: Option<Vec<u64>> = sizes.split('x').map(|size| size.parse().ok()).collect();
    let sizes = sizes.ok_or_else(refuse)?;
    let spec = |shape: &[u64]| {
        let dims = Dims::new(shape).ok_or_else(refuse)?;
        Ok::<Spec, Error>(Spec::new(dtype, Layout::contiguous(dims), 0))
    };
    let (op, specs): (Op, Vec<Spec>) = match (name, &sizes[..]) {
        ("matmul", &[m, n, k]) => {
            (Matmul::default().into(), vec![spec(&[m, k])?, spec(&[k, n])?, spec(&[m, n])?])
        }
        ("matmul", &[b, m, n, k]) => (
            Matmul::default().into(),
            vec![spec(&[b, m, k])?, spec(&[b, k, n])?, spec(&[b, m, n])?],
        ),
        ("attention", &[_, _, _, _]) => (Attention::default().into(), vec![spec(&sizes)?; 4]),
        _ => return Err(refuse()),
    };
    check(op, &specs)
}

/// Compiles the kernels of some architectures into a file, and says what is in it.
///
/// # Errors
/// As [`Pack::build`]; `System` when the file cannot be written.
pub fn build(archs: &[&str], out: &Path) -> Result<String, Error> {
    let bytes = Pack::build(archs)?.write(out)?;
    Ok(format!("{}: kernels for {}, {bytes} bytes", out.display(), archs.join(", ")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn plans_are_ranked_and_predicted() {
        let text = ranked("matmul bf16 4096x4096x4096", "sm_90a").unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() > 4, "{text}");
        assert!(lines[0].starts_with("matmul_sm90 tile"), "{text}");
        assert!(lines[1].contains("256x128") && lines[1].contains("predicted"), "{text}");
        // 512 tiles of pairs of 114 multiprocessors.
        assert!(lines[1].contains("9 waves, the last 98 % full"), "{text}");
        // A vendor's library is told apart from what runs by default; what is longer than a unit is never its own.
        let small = ranked("matmul f16 3x8x8x8", "sm_86").unwrap();
        let (ours, others) = small.split_once("where its library is present:\n").unwrap();
        assert!(others.contains("cublaslt") && others.lines().count() == 1, "{small}");
        assert!(ours.contains("matmul_sm80_f16") && !ours.contains("cublaslt"), "{small}");
        assert!(!text.contains("cublaslt"), "{text}");
        assert!(ranked("attention f16 1x8x1024x64", "sm_90a").unwrap().contains("attention_sm90"));
    }

    #[test]
    fn kernels_are_built_for_known_architectures_only() {
        let out = std::env::temp_dir().join(format!("leasehold-pack-{}", std::process::id()));
        let error = build(&["sm_90a", "sm_70"], &out).unwrap_err();
        let Kind::Value { asked, allowed } = error.kind() else { panic!("{error}") };
        assert!(asked == "sm_70" && allowed.contains("sm_90a"), "{error}");
        assert!(!out.exists());
    }

    #[test]
    fn what_is_no_op_is_refused() {
        for text in [
            "",
            "matmul",
            "matmul bf16 4x4",
            "matmul bf17 4x4x4",
            "sum f32 4x4x4",
            "matmul f16 ax4x4",
        ] {
            let error = ranked(text, "sm_90a").unwrap_err();
            assert!(matches!(error.kind(), Kind::Value { .. }), "{error}");
        }
        assert!(ranked("matmul bf16 8x8x8", "sm_70").is_err());
        // An output of 8 bits without a scale.
        assert!(ranked("matmul f8e4m3 8x8x8", "sm_90a").is_err());
    }
}

//! Says what a jail would be, step by step and layer by layer, without making one.

use super::{Layer, Policy, Source, Step};
use std::fmt::Write;

/// The text of `leasehold run --explain`.
pub fn explain(policy: &Policy) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    let limits = &policy.limits;
    line(format!("program   {}", place(&policy.program)));
    line(format!("arguments {:?}", policy.argv));
    line(format!("profile   {:?}", policy.profile));
    match policy.host_id {
        Some(id) => line(format!("host id   {}:{}", id.uid, id.gid)),
        None => line("host id   the caller's own".to_owned()),
    }
    for variable in policy.environment(true) {
        line(format!("variable  {variable}"));
    }
    for (name, source) in &policy.inputs {
        line(format!("input     /in/{name} <- {}, read-only", place(source)));
    }
    for name in &policy.outputs {
        line(format!("output    /out/{name}, a regular file of at most {} bytes", limits.file));
    }
    let wall = limits.wall.map_or("none".to_owned(), |w| format!("{} ms", w.as_millis()));
    line(format!(
        "limits    wall time {wall}, memory {} bytes, {} thousandths of a processor, {} processes, /tmp {} bytes",
        limits.memory, limits.milli_cpus, limits.pids, limits.tmp
    ));
    for step in Step::ALL {
        line(format!("step {:>2}   {step}", step.number()));
    }
    for layer in Layer::ALL {
        let must = match (layer.hard(), policy.strict) {
            (true, _) => "must hold",
            (false, true) => "must hold (strict)",
            (false, false) => "as far as this host allows",
        };
        line(format!("layer     {layer}: {must}"));
    }
    out
}

fn place(source: &Source) -> String {
    match &source.beneath {
        None => source.path.display().to_string(),
        Some(dir) => {
            format!("{} beneath {}, without symlinks", source.path.display(), dir.display())
        }
    }
}

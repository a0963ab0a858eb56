//! Every module parses and validates by naga without any device feature, and agrees with its row of the table.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use leasehold_shaders::{Binding, SHADERS};
use naga::valid::{Capabilities, ValidationFlags, Validator};

#[test]
fn every_module_is_valid_and_as_its_table_says() {
    for shader in &SHADERS {
        let source = shader.source();
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|e| panic!("{}: {}", shader.op, e.emit_to_string(&source)));
        Validator::new(ValidationFlags::all(), Capabilities::empty())
            .validate(&module)
            .unwrap_or_else(|e| panic!("{}: {}", shader.op, e.emit_to_string(&source)));
        let entries: Vec<&str> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(entries, shader.entries, "{}", shader.op);
        let mut names: Vec<(u32, String)> = module
            .global_variables
            .iter()
            .filter_map(|(_, v)| Some((v.binding.as_ref()?.binding, v.name.clone()?)))
            .collect();
        names.sort();
        let table = shader.bindings.iter().map(|binding| match binding {
            Binding::Operand(name) => (*name).to_string(),
            Binding::Parts(name) => format!("{name}_parts"),
            Binding::State => "state".into(),
            Binding::Stats => "stats".into(),
            Binding::Scratch => "scratch".into(),
            Binding::Made => "made".into(),
            Binding::Fault => "fault".into(),
        });
        let want: Vec<(u32, String)> =
            (0..).zip(["p".to_string()].into_iter().chain(table)).collect();
        assert_eq!(names, want, "{}", shader.op);
        let has_kind = module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some("KIND"));
        assert_eq!(has_kind, shader.kinds, "{}", shader.op);
    }
}

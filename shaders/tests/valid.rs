//! Every module parses and validates by naga, without any device feature but where it is made for one, and agrees with
//! its row of the table.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use leasehold_shaders::{Binding, SHADERS, Shader, VARIANTS};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// Parses, validates, and holds a module against its row.
fn holds(name: &str, shader: &Shader, source: &str, needs: Capabilities) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    Validator::new(ValidationFlags::all(), needs)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    let entries: Vec<&str> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(entries, shader.entries, "{name}");
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
    let want: Vec<(u32, String)> = (0..).zip(["p".to_string()].into_iter().chain(table)).collect();
    assert_eq!(names, want, "{name}");
    let has_kind = module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some("KIND"));
    assert_eq!(has_kind, shader.kinds, "{name}");
}

#[test]
fn every_module_is_valid_and_as_its_table_says() {
    for shader in &SHADERS {
        holds(shader.op, shader, &shader.source(), Capabilities::empty());
    }
    for variant in &VARIANTS {
        // What is made for a matrix unit needs one, what emulates it nothing.
        let source = variant.source();
        let needs = match source.contains("enable wgpu_cooperative_matrix;") {
            true => {
                Capabilities::COOPERATIVE_MATRIX
                    | Capabilities::SHADER_FLOAT16
                    | Capabilities::SHADER_FLOAT16_IN_FLOAT32
            }
            false => Capabilities::empty(),
        };
        holds(variant.kernel, &variant.shader, &source, needs);
        let module = naga::front::wgsl::parse_str(&source).unwrap();
        for (name, _) in variant.constants {
            let mut overrides = module.overrides.iter();
            assert!(overrides.any(|(_, o)| o.name.as_deref() == Some(*name)), "{name}");
        }
    }
}

#[test]
fn kernels_of_the_matrix_unit_and_their_emulations_differ_in_the_operations_alone() {
    let of = |kernel: &str| {
        let variant = VARIANTS.iter().find(|variant| variant.kernel == kernel).unwrap();
        let source = variant.source();
        let from = source.find(&format!("// {}:", variant.shader.entries.last().unwrap()));
        (variant.tile, source[from.unwrap()..].to_string())
    };
    assert_eq!(of("matmul_coop16_64x64"), of("matmul_coop16_emulated"));
    assert_eq!(of("matmul_coop8_64x64"), of("matmul_coop8_emulated"));
    assert_eq!(of("attention_coop16_32"), of("attention_coop16_emulated"));
    assert_eq!(of("attention_coop8_32"), of("attention_coop8_emulated"));
}

/// The table says how much workgroup memory a kernel takes, and devices with less are not asked to run it.
#[test]
fn the_table_knows_the_workgroup_memory_of_kernels_of_the_matrix_unit() {
    for variant in VARIANTS.iter().filter(|variant| variant.kernel.contains("_coop")) {
        let module = naga::front::wgsl::parse_str(&variant.source()).unwrap();
        let context = module.to_ctx();
        let shared = module.global_variables.iter().map(|(_, variable)| variable);
        let shared = shared.filter(|v| v.space == naga::AddressSpace::WorkGroup);
        // Only `count` has use for its counts.
        let shared = shared.filter(|v| v.name.as_deref() != Some("counted"));
        let bytes: u32 = shared.map(|v| module.types[v.ty].inner.size(context)).sum();
        assert_eq!(bytes, variant.memory, "{}", variant.kernel);
        // What WebGPU's devices that are not of the smallest kind have.
        assert!(bytes <= 32 << 10, "{}: {bytes}", variant.kernel);
    }
}

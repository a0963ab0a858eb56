//! Kernels beside an op's own, for devices that can do more. `lib` has the table's words; the backend's plans name
//! them.

use super::{ATTENTION, BATCH, Binding, FAULT, HEADS, PRELUDE, PRODUCT, Shader};

/// A kernel beside an op's own: another module, or the same with other constants.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// As plans name it.
    pub kernel: &'static str,
    /// Rows and columns of a workgroup's outputs.
    pub tile: [u32; 2],
    /// Bytes of workgroup memory.
    pub memory: u32,
    /// What the pipeline sets in the module.
    pub constants: &'static [(&'static str, u32)],
    /// How often a line that names `$i`, or `$j`, stands in the module.
    pub repeat: [usize; 2],
    /// The module.
    pub shader: Shader,
}

impl Variant {
    /// The whole module.
    pub fn source(&self) -> String {
        repeated(&self.shader.source(), self.repeat)
    }
}

/// Writes each line that names `$i` or `$j` once for each value below the first or second of `n`, or pair of values; `$n`
/// is the first.
fn repeated(source: &str, n: [usize; 2]) -> String {
    let mut out = String::with_capacity(2 * source.len());
    for line in source.lines() {
        let line = line.replace("$n", &n[0].to_string());
        for i in 0..if line.contains("$i") { n[0] } else { 1 } {
            for j in 0..if line.contains("$j") { n[1] } else { 1 } {
                out += &line.replace("$i", &i.to_string()).replace("$j", &j.to_string());
                out.push('\n');
            }
        }
    }
    out
}

const PRODUCT_SOURCE: &str = include_str!("wgsl/product.wgsl");
const STAGE: &str = include_str!("wgsl/stage.wgsl");
const COOP: &str = include_str!("wgsl/coop.wgsl");
const COOP_EMULATED: &str = include_str!("wgsl/coop_emulated.wgsl");
const MATMUL_COOP: &str = include_str!("wgsl/matmul_coop.wgsl");
const ATTENTION_COOP: &str = include_str!("wgsl/attention_coop.wgsl");
const EPILOGUE: &str = include_str!("wgsl/epilogue.wgsl");

/// Before `coop.wgsl`: the extension, and tiles by their edge.
const TILES_16: &str = "enable f16;
enable wgpu_cooperative_matrix;
alias TileA = coop_mat16x16<f16, A>;
alias TileB = coop_mat16x16<f16, B>;
alias TileC = coop_mat16x16<f32, C>;
const EDGE: u32 = 16u;
";
const TILES_8: &str = "enable f16;
enable wgpu_cooperative_matrix;
alias TileA = coop_mat8x8<f16, A>;
alias TileB = coop_mat8x8<f16, B>;
alias TileC = coop_mat8x8<f32, C>;
const EDGE: u32 = 8u;
";
/// Before `coop_emulated.wgsl`: the edge, and the sums of a tile that one of 32 lanes has.
const EMULATED_16: &str = "const EDGE: u32 = 16u;\nconst SHARE: u32 = 8u;\n";
const EMULATED_8: &str = "const EDGE: u32 = 8u;\nconst SHARE: u32 = 2u;\n";

/// Subgroups of a workgroup, where kernels differ in them.
const SUBGROUPS_4: &str = "const SUBGROUPS: u32 = 4u;\n";
const SUBGROUPS_2: &str = "const SUBGROUPS: u32 = 2u;\n";

/// A module of products of floats.
const fn product(entries: &'static [&'static str], sources: &'static [&'static str]) -> Shader {
    let bindings: &[Binding] = &PRODUCT;
    Shader { op: "matmul", entries, bindings, kinds: true, sources }
}

/// Products by tiles in workgroup memory.
const TILED: Shader = product(
    &["matmul_tiled"],
    &[PRELUDE, FAULT, PRODUCT_SOURCE, STAGE, include_str!("wgsl/matmul_tiled.wgsl"), EPILOGUE],
);

/// Products by the matrix unit, by the edge of its tiles, and the same with its operations emulated.
const COOP_16: Shader = product(
    &["matmul_coop"],
    &[TILES_16, PRELUDE, FAULT, PRODUCT_SOURCE, STAGE, COOP, MATMUL_COOP, EPILOGUE],
);
const COOP_8: Shader = product(
    &["matmul_coop"],
    &[TILES_8, PRELUDE, FAULT, PRODUCT_SOURCE, STAGE, COOP, MATMUL_COOP, EPILOGUE],
);
const COOP_16_EMULATED: Shader = product(
    &["matmul_coop"],
    &[EMULATED_16, PRELUDE, FAULT, PRODUCT_SOURCE, STAGE, COOP_EMULATED, MATMUL_COOP, EPILOGUE],
);
const COOP_8_EMULATED: Shader = product(
    &["matmul_coop"],
    &[EMULATED_8, PRELUDE, FAULT, PRODUCT_SOURCE, STAGE, COOP_EMULATED, MATMUL_COOP, EPILOGUE],
);

/// A module of attention.
const fn attention(entries: &'static [&'static str], sources: &'static [&'static str]) -> Shader {
    let bindings: &[Binding] = &ATTENTION;
    Shader { op: "attention", entries, bindings, kinds: true, sources }
}

/// Attention by tiles in workgroup memory.
const ATTENTION_TILED: Shader = attention(
    &["count", "combine", "attention_tiled"],
    &[PRELUDE, FAULT, BATCH, HEADS, include_str!("wgsl/attention_tiled.wgsl")],
);

/// Attention by the matrix unit, by the edge of its tiles and the rows of a workgroup, and with the unit emulated.
const ATTENTION_COOP_ENTRIES: [&str; 3] = ["count", "combine", "attention_coop"];
const ATTENTION_COOP16_64: Shader = attention(
    &ATTENTION_COOP_ENTRIES,
    &[TILES_16, SUBGROUPS_4, PRELUDE, FAULT, BATCH, HEADS, COOP, ATTENTION_COOP],
);
const ATTENTION_COOP16_32: Shader = attention(
    &ATTENTION_COOP_ENTRIES,
    &[TILES_16, SUBGROUPS_2, PRELUDE, FAULT, BATCH, HEADS, COOP, ATTENTION_COOP],
);
const ATTENTION_COOP8: Shader = attention(
    &ATTENTION_COOP_ENTRIES,
    &[TILES_8, SUBGROUPS_4, PRELUDE, FAULT, BATCH, HEADS, COOP, ATTENTION_COOP],
);
const ATTENTION_COOP16_EMULATED: Shader = attention(
    &ATTENTION_COOP_ENTRIES,
    &[EMULATED_16, SUBGROUPS_2, PRELUDE, FAULT, BATCH, HEADS, COOP_EMULATED, ATTENTION_COOP],
);
const ATTENTION_COOP8_EMULATED: Shader = attention(
    &ATTENTION_COOP_ENTRIES,
    &[EMULATED_8, SUBGROUPS_4, PRELUDE, FAULT, BATCH, HEADS, COOP_EMULATED, ATTENTION_COOP],
);

/// Bytes of workgroup memory of `attention_tiled`.
const ATTENTION_MEMORY: u32 = 16 * (64 * 17 + 512) + 2 * 4 * 256 + 32;

/// Every such kernel.
pub const VARIANTS: [Variant; 15] = [
    Variant {
        kernel: "attention_tiled_32",
        tile: [32, 0],
        memory: ATTENTION_MEMORY,
        constants: &[("TEAMS", 8), ("SPAN", 16)],
        repeat: [1, 1],
        shader: ATTENTION_TILED,
    },
    Variant {
        kernel: "attention_tiled_8",
        tile: [8, 0],
        memory: ATTENTION_MEMORY,
        constants: &[("TEAMS", 2), ("SPAN", 32)],
        repeat: [1, 1],
        shader: ATTENTION_TILED,
    },
    attention_coop("attention_coop16_64", ATTENTION_COOP16_64, 16, 4, 2),
    attention_coop("attention_coop16_32", ATTENTION_COOP16_32, 16, 2, 2),
    attention_coop("attention_coop8_32", ATTENTION_COOP8, 8, 4, 2),
    attention_coop("attention_coop16_emulated", ATTENTION_COOP16_EMULATED, 16, 2, 4),
    attention_coop("attention_coop8_emulated", ATTENTION_COOP8_EMULATED, 8, 4, 4),
    tiled("matmul_tiled_128x128", 128, 5, &[("SIDE", 16), ("BLOCKS", 2), ("DEPTH", 16)]),
    tiled("matmul_tiled_64x64", 64, 5, &[("SIDE", 8), ("BLOCKS", 2), ("DEPTH", 16)]),
    tiled("matmul_tiled_64x64_wide", 64, 9, &[("SIDE", 16), ("BLOCKS", 1), ("DEPTH", 32)]),
    coop("matmul_coop16_128x128", COOP_16, 16, 4, 2),
    coop("matmul_coop16_64x64", COOP_16, 16, 2, 2),
    coop("matmul_coop8_64x64", COOP_8, 8, 4, 2),
    coop("matmul_coop16_emulated", COOP_16_EMULATED, 16, 2, 4),
    coop("matmul_coop8_emulated", COOP_8_EMULATED, 8, 4, 4),
];

/// Bytes of workgroup memory for the matrices that indices name.
const NAMED: u32 = 8;

/// Square tiles of `side`, whose rows are so many fours in memory.
const fn tiled(
    kernel: &'static str,
    side: u32,
    fours: u32,
    constants: &'static [(&'static str, u32)],
) -> Variant {
    let memory = 2 * 16 * side * fours + NAMED;
    Variant { kernel, tile: [side, side], memory, constants, repeat: [1, 1], shader: TILED }
}

/// `repeat` by `repeat` tiles a subgroup, of elements that take so many bytes in memory.
const fn coop(
    kernel: &'static str,
    shader: Shader,
    edge: u32,
    repeat: u32,
    element: u32,
) -> Variant {
    let side = 2 * edge * repeat;
    let memory = 2 * side * (32 + 8) * element + 4 * 4 * edge * edge + NAMED;
    let repeat = [repeat as usize; 2];
    Variant { kernel, tile: [side, side], memory, constants: &[], repeat, shader }
}

/// Attention by so many subgroups, whose staged elements take so many bytes in memory.
const fn attention_coop(
    kernel: &'static str,
    shader: Shader,
    edge: u32,
    subgroups: u32,
    element: u32,
) -> Variant {
    let rows = edge * subgroups;
    let staged = element * (rows + 64) * (32 + 8);
    let memory = staged + 4 * rows * (64 + 4) + 2 * 4 * 256 + 16 * 32 * subgroups + 32;
    let repeat = [4, 64 / edge as usize];
    Variant { kernel, tile: [rows, 0], memory, constants: &[], repeat, shader }
}

#[cfg(test)]
mod tests {
    use super::repeated;

    #[test]
    fn lines_stand_once_for_each_value_they_name() {
        let source = "a\nb_$i = $j;\nc_$j of $n\n";
        let want = "a\nb_0 = 0;\nb_0 = 1;\nb_0 = 2;\nb_1 = 0;\nb_1 = 1;\nb_1 = 2;\nc_0 of 2\nc_1 of 2\nc_2 of 2\n";
        assert_eq!(repeated(source, [2, 3]), want);
    }
}

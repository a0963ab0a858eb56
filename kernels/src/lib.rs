//! CUDA kernels of Leasehold and their variant table: sources, the rows that each is compiled to, and the structs that
//! launches are given. This crate knows no driver and no compiler; the CUDA backend of the runtime reads the table, and
//! the tests run every row on the host model (`kernels/host`).

mod args;
mod attention;
mod attention_backward;
mod attention_backward_sm90;
mod attention_entries;
mod attention_paged;
mod attention_reference;
mod attention_sm80;
mod map;
mod matmul;
mod matmul_groups;
mod matmul_indices;
mod matmul_scaled;
mod matmul_sm80_bytes;
mod matmul_sm90;
mod matmul_sm90_fp8;
mod streaming;
mod streaming_reference;
mod view;

pub use args::{
    ArgMaxArgs, CopyArgs, DequantizeArgs, GatherArgs, MapArgs, NormArgs, NormBackwardArgs,
    QuantizeCellsArgs, QuantizeRowsArgs, ReduceArgs, RopeArgs, ScatterAddArgs, ScatterArgs,
    SoftmaxArgs, TopKArgs, TurnArgs,
};
pub use attention::{AttentionArgs, AttentionSm90, AttentionSm90Args, Entry, Heads, Pages};
pub use attention_backward::{
    AttentionBackwardArgs, AttentionBackwardReference, AttentionBackwardRows,
    AttentionBackwardSm80, GradientSide, gradient_tiles,
};
pub use attention_backward_sm90::{AttentionBackwardSm90, AttentionBackwardSm90Args};
pub use attention_entries::{AttentionEntries, AttentionEntriesArgs, Counts};
pub use attention_paged::{AttentionCombine, AttentionPaged};
pub use attention_reference::AttentionReference;
pub use attention_sm80::AttentionSm80;
pub use map::BoxMap;
pub use matmul::{
    GroupEntry, Major, MatmulArgs, MatmulF32, MatmulReference, MatmulSm80, Matrices, Values,
};
pub use matmul_groups::{MatmulGroups, MatmulGroupsArgs};
pub use matmul_indices::{Indices, MatmulIndices, MatmulIndicesArgs, MatrixPair};
pub use matmul_scaled::{MatmulScaledArgs, MatmulScaling, Scales};
pub use matmul_sm80_bytes::{Bytes, MatmulSm80Bytes};
pub use matmul_sm90::{Form, MatmulMerge, MatmulMergeArgs, MatmulSm90, MatmulSm90Args, Side};
pub use matmul_sm90_fp8::{Fp8, MatmulSm90Fp8, MatmulSm90Fp8Args};
pub use streaming::Streaming;
pub use streaming_reference::StreamingReference;
pub use view::{Axes, Range, Rows, View};

/// The architectures that rows are compiled for, of which each device runs the machine code of one: compute capability 8.x,
/// 9.0, 10.x, 12.x.
pub const ARCHS: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];

/// A compiled variant: one entry point of one cubin an arch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    /// Products one output a thread: what the others are held to.
    MatmulReference(MatmulReference),
    /// The list of a product's groups, from sizes in device memory.
    MatmulGroups(MatmulGroups),
    /// The list of the matrices that entries of a batch name, from indices in device memory.
    MatmulIndices(MatmulIndices),
    /// True f32 products on CUDA cores.
    MatmulF32(MatmulF32),
    /// Products by `mma.sync`, for every GPU from compute capability 8.0.
    MatmulSm80(MatmulSm80),
    /// Products by wgmma, for Hopper.
    MatmulSm90(MatmulSm90),
    /// What ends products whose K was split.
    MatmulMerge(MatmulMerge),
    /// Products of 8-bit values by `mma.sync`, for every GPU from compute capability 8.0.
    MatmulSm80Bytes(MatmulSm80Bytes),
    /// Products of 8-bit floats by wgmma, for Hopper.
    MatmulSm90Fp8(MatmulSm90Fp8),
    /// Attention forward by `mma.sync`, for every GPU from compute capability 8.0.
    AttentionSm80(AttentionSm80),
    /// Attention forward by wgmma, for Hopper.
    AttentionSm90(AttentionSm90),
    /// Attention of few rows over splits of many keys, in pages or not.
    AttentionPaged(AttentionPaged),
    /// Attention forward as it is written down, also of f32.
    AttentionReference(AttentionReference),
    /// The list of batch entries, from counts in device memory.
    AttentionEntries(AttentionEntries),
    /// What merges the splits.
    AttentionCombine(AttentionCombine),
    /// What attention's gradients need of each query row.
    AttentionBackwardRows(AttentionBackwardRows),
    /// Attention's gradients by `mma.sync`, for every GPU from compute capability 8.0.
    AttentionBackwardSm80(AttentionBackwardSm80),
    /// Attention's gradients by wgmma, for Hopper.
    AttentionBackwardSm90(AttentionBackwardSm90),
    /// Attention's gradients as they are written down, also of f32.
    AttentionBackwardReference(AttentionBackwardReference),
    /// Every other op.
    Streaming(Streaming),
    /// Every other op as it is written down: what the others are held to, and no plan names.
    StreamingReference(StreamingReference),
}

impl Row {
    /// Name of the row, and of its entry point, which must not be that of its kernel's namespace.
    pub fn key(&self) -> String {
        match self {
            Self::MatmulReference(row) => row.key(),
            Self::MatmulGroups(_) => "matmul_groups_32".into(),
            Self::MatmulIndices(_) => "matmul_indices_256".into(),
            Self::MatmulF32(row) => row.key(),
            Self::MatmulSm80(row) => row.key(),
            Self::MatmulSm90(row) => row.key(),
            Self::MatmulMerge(_) => "matmul_merge_256".into(),
            Self::MatmulSm80Bytes(row) => row.key(),
            Self::MatmulSm90Fp8(row) => row.key(),
            Self::AttentionSm80(row) => row.key(),
            Self::AttentionSm90(row) => row.key(),
            Self::AttentionPaged(row) => row.key(),
            Self::AttentionReference(_) => "attention_reference_256".into(),
            Self::AttentionEntries(_) => "attention_entries_32".into(),
            Self::AttentionCombine(_) => "attention_combine_256".into(),
            Self::AttentionBackwardRows(_) => "attention_backward_rows_256".into(),
            Self::AttentionBackwardSm80(row) => row.key(),
            Self::AttentionBackwardSm90(row) => row.key(),
            Self::AttentionBackwardReference(row) => row.key(),
            Self::Streaming(row) => row.key(),
            Self::StreamingReference(row) => row.key(),
        }
    }

    /// The source file that holds the kernel.
    pub fn file(&self) -> &'static str {
        match self {
            Self::MatmulReference(_) => "cuda/matmul_reference.cu",
            Self::MatmulGroups(_) => "cuda/matmul_groups.cu",
            Self::MatmulIndices(_) => "cuda/matmul_indices.cu",
            Self::MatmulF32(_) => "cuda/matmul_f32.cu",
            Self::MatmulSm80(_) => "cuda/matmul_sm80.cu",
            Self::MatmulSm90(_) => "cuda/matmul_sm90.cu",
            Self::MatmulMerge(_) => "cuda/matmul_merge.cu",
            Self::MatmulSm80Bytes(_) => "cuda/matmul_sm80_bytes.cu",
            Self::MatmulSm90Fp8(_) => "cuda/matmul_sm90_fp8.cu",
            Self::AttentionSm80(_) => "cuda/attention_sm80.cu",
            Self::AttentionSm90(_) => "cuda/attention_sm90.cu",
            Self::AttentionPaged(_) => "cuda/attention_paged.cu",
            Self::AttentionReference(_) => "cuda/attention_reference.cu",
            Self::AttentionEntries(_) => "cuda/attention_entries.cu",
            Self::AttentionCombine(_) => "cuda/attention_combine.cu",
            Self::AttentionBackwardRows(_) => "cuda/attention_backward_rows.cu",
            Self::AttentionBackwardSm80(_) => "cuda/attention_backward.cu",
            Self::AttentionBackwardSm90(_) => "cuda/attention_backward_sm90.cu",
            Self::AttentionBackwardReference(_) => "cuda/attention_backward_reference.cu",
            Self::Streaming(row) => row.file(),
            Self::StreamingReference(row) => row.file(),
        }
    }

    /// Struct that a launch is given, the C++ type that holds the row's constants, and the function it instantiates.
    pub fn template(&self) -> (&'static str, String, &'static str) {
        match self {
            Self::MatmulReference(row) => {
                ("MatmulScaledArgs", row.shape(), "matmul_reference::run")
            }
            Self::MatmulGroups(_) => {
                ("MatmulGroupsArgs", "matmul_groups::Shape".into(), "matmul_groups::run")
            }
            Self::MatmulIndices(_) => {
                ("MatmulIndicesArgs", "matmul_indices::Shape".into(), "matmul_indices::run")
            }
            Self::MatmulF32(row) => ("MatmulArgs", row.shape(), "matmul_f32::run"),
            Self::MatmulSm80(row) => ("MatmulArgs", row.shape(), "matmul_sm80::run"),
            Self::MatmulSm90(row) => ("MatmulSm90Args", row.shape(), "matmul_sm90::run"),
            Self::MatmulMerge(_) => {
                ("MatmulMergeArgs", "matmul_merge::Shape".into(), "matmul_merge::run")
            }
            Self::MatmulSm80Bytes(row) => {
                ("MatmulScaledArgs", row.shape(), "matmul_sm80_bytes::run")
            }
            Self::MatmulSm90Fp8(row) => ("MatmulSm90Fp8Args", row.shape(), "matmul_sm90_fp8::run"),
            Self::AttentionSm80(row) => ("AttentionArgs", row.shape(), "attention_sm80::run"),
            Self::AttentionSm90(row) => ("AttentionSm90Args", row.shape(), "attention_sm90::run"),
            Self::AttentionPaged(row) => ("AttentionArgs", row.shape(), "attention_paged::run"),
            Self::AttentionEntries(row) => {
                ("AttentionEntriesArgs", row.shape(), "attention_entries::run")
            }
            Self::AttentionReference(row) => {
                ("AttentionArgs", row.shape(), "attention_reference::run")
            }
            Self::AttentionCombine(row) => ("AttentionArgs", row.shape(), "attention_combine::run"),
            Self::AttentionBackwardRows(row) => {
                ("AttentionBackwardArgs", row.shape(), "attention_backward_rows::run")
            }
            Self::AttentionBackwardSm80(row) => ("AttentionBackwardArgs", row.shape(), row.run()),
            Self::AttentionBackwardSm90(row) => {
                ("AttentionBackwardSm90Args", row.shape(), "attention_backward_sm90::run")
            }
            Self::AttentionBackwardReference(row) => {
                ("AttentionBackwardArgs", row.shape(), row.run())
            }
            Self::Streaming(row) => row.template(),
            Self::StreamingReference(row) => row.template(),
        }
    }

    /// The architectures that it is compiled for.
    pub fn archs(&self) -> &'static [&'static str] {
        match self {
            Self::MatmulSm90(_)
            | Self::MatmulSm90Fp8(_)
            | Self::MatmulMerge(_)
            | Self::AttentionSm90(_)
            | Self::AttentionBackwardSm90(_) => &["sm_90a"],
            Self::MatmulSm80Bytes(row) => row.archs(),
            _ => &ARCHS,
        }
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        match self {
            Self::MatmulReference(_)
            | Self::MatmulIndices(_)
            | Self::MatmulF32(_)
            | Self::MatmulMerge(_) => 256,
            Self::MatmulGroups(_) => 32,
            Self::MatmulSm80(row) => row.threads(),
            Self::MatmulSm90(row) => row.threads(),
            Self::MatmulSm80Bytes(row) => row.threads(),
            Self::MatmulSm90Fp8(row) => row.threads(),
            Self::AttentionSm80(row) => row.threads(),
            Self::AttentionSm90(row) => row.threads(),
            Self::AttentionPaged(row) => row.threads(),
            Self::AttentionReference(row) => row.threads(),
            Self::AttentionEntries(row) => row.threads(),
            Self::AttentionCombine(row) => row.threads(),
            Self::AttentionBackwardRows(row) => row.threads(),
            Self::AttentionBackwardSm80(row) => row.threads(),
            Self::AttentionBackwardSm90(row) => row.threads(),
            Self::AttentionBackwardReference(row) => row.threads(),
            Self::Streaming(row) => row.threads(),
            Self::StreamingReference(_) => StreamingReference::THREADS,
        }
    }

    /// Blocks of a cluster: a grid is a multiple of it.
    pub fn cluster(&self) -> u32 {
        match self {
            Self::MatmulSm90(row) => row.cluster,
            Self::MatmulSm90Fp8(row) => row.cluster,
            _ => 1,
        }
    }

    /// Bytes of dynamic shared memory of a block.
    pub fn shared_bytes(&self) -> u32 {
        match self {
            Self::MatmulReference(row) => row.shared_bytes(),
            Self::MatmulGroups(_) | Self::MatmulIndices(_) | Self::MatmulMerge(_) => 0,
            Self::MatmulF32(row) => row.shared_bytes(),
            Self::MatmulSm80(row) => row.shared_bytes(),
            Self::MatmulSm90(row) => row.shared_bytes(),
            Self::MatmulSm80Bytes(row) => row.shared_bytes(),
            Self::MatmulSm90Fp8(row) => row.shared_bytes(),
            Self::AttentionSm80(row) => row.shared_bytes(),
            Self::AttentionSm90(row) => row.shared_bytes(),
            Self::AttentionPaged(row) => row.shared_bytes(),
            Self::AttentionReference(_)
            | Self::AttentionEntries(_)
            | Self::AttentionCombine(_)
            | Self::AttentionBackwardRows(_)
            | Self::AttentionBackwardReference(_)
            | Self::StreamingReference(_) => 0,
            Self::AttentionBackwardSm80(row) => row.shared_bytes(),
            Self::AttentionBackwardSm90(row) => row.shared_bytes(),
            Self::Streaming(row) => row.shared_bytes(),
        }
    }

    /// The whole translation unit for the device's compiler, whose headers are [`SOURCES`]. The two numbers that the host
    /// computes too are asserted.
    pub fn source(&self) -> String {
        let (args, shape, run) = self.template();
        let (file, key, threads, shared) =
            (self.file(), self.key(), self.threads(), self.shared_bytes());
        let kernel = match self.cluster() {
            1 => format!("KERNEL({key}, Shape::THREADS, 1)"),
            n => format!("KERNEL_OF_CLUSTER({key}, Shape::THREADS, 1, {n})"),
        };
        format!(
            "#include \"{file}\"\n\
             using Shape = {shape};\n\
             static_assert(Shape::THREADS == {threads} && Shape::SHARED_BYTES == {shared}, \"as the host counts\");\n\
             {kernel}(PARAMETER({args}) args) {{ {run}<Shape>(args); }}\n"
        )
    }
}

/// Every row, in a fixed order.
pub fn rows() -> Vec<Row> {
    let plain = MatmulF32::all().into_iter().map(Row::MatmulF32);
    let plain = plain.chain(MatmulReference::all().into_iter().map(Row::MatmulReference));
    let plain = plain.chain([Row::MatmulGroups(MatmulGroups), Row::MatmulIndices(MatmulIndices)]);
    let sm80 = MatmulSm80::all().into_iter().map(Row::MatmulSm80);
    let sm90 = MatmulSm90::forms().into_iter().map(Row::MatmulSm90);
    let attention80 = AttentionSm80::all().into_iter().map(Row::AttentionSm80);
    let attention90 = AttentionSm90::all().into_iter().map(Row::AttentionSm90);
    let paged = AttentionPaged::all().into_iter().map(Row::AttentionPaged);
    let streaming = Streaming::all().into_iter().map(Row::Streaming);
    let fp8 = MatmulSm90Fp8::all().into_iter().map(Row::MatmulSm90Fp8);
    let bytes = MatmulSm80Bytes::all().into_iter().map(Row::MatmulSm80Bytes);
    let products = plain.chain(sm80).chain(sm90).chain(bytes).chain(fp8);
    let products = products.chain([Row::MatmulMerge(MatmulMerge)]);
    let attention = attention80.chain(attention90).chain(paged).chain([
        Row::AttentionReference(AttentionReference),
        Row::AttentionEntries(AttentionEntries),
        Row::AttentionCombine(AttentionCombine),
    ]);
    let sides = GradientSide::ALL.map(|side| AttentionBackwardReference { side });
    let backward80 = AttentionBackwardSm80::all().into_iter().map(Row::AttentionBackwardSm80);
    let backward90 = AttentionBackwardSm90::all().into_iter().map(Row::AttentionBackwardSm90);
    let backward = backward80
        .chain(backward90)
        .chain(sides.map(Row::AttentionBackwardReference))
        .chain([Row::AttentionBackwardRows(AttentionBackwardRows)]);
    let simple = StreamingReference::ALL.map(Row::StreamingReference);
    products.chain(attention).chain(backward).chain(streaming).chain(simple).collect()
}

macro_rules! table {
    ($($path:literal),* $(,)?) => {
        /// The sources that choose rows, their cuts and what they are given, by their names: what decides bits beside the
        /// kernels.
        pub const TABLE: &[(&str, &str)] = &[$(($path, include_str!($path))),*];
    };
}

table!(
    "args.rs",
    "attention.rs",
    "attention_backward.rs",
    "attention_backward_sm90.rs",
    "attention_entries.rs",
    "attention_paged.rs",
    "attention_reference.rs",
    "attention_sm80.rs",
    "map.rs",
    "matmul.rs",
    "matmul_groups.rs",
    "matmul_indices.rs",
    "matmul_scaled.rs",
    "matmul_sm80_bytes.rs",
    "matmul_sm90.rs",
    "matmul_sm90_fp8.rs",
    "streaming.rs",
    "view.rs",
);

/// How every row is compiled, beside its architecture: without contraction, so that bits are those of the source, on a card
/// as on the host model.
pub const FLAGS: [&str; 3] = ["-std=c++20", "-default-device", "--fmad=false"];

macro_rules! sources {
    ($($path:literal),* $(,)?) => {
        /// Every source of the kernels, by the name that the others include it by.
        pub const SOURCES: &[(&str, &str)] = &[$(($path, include_str!(concat!("../", $path)))),*];
    };
}

sources!(
    "cuda/arg_max.cu",
    "cuda/attention.h",
    "cuda/attention_backward.cu",
    "cuda/attention_backward.h",
    "cuda/attention_backward_reference.cu",
    "cuda/attention_backward_rows.cu",
    "cuda/attention_backward_sm90.cu",
    "cuda/attention_combine.cu",
    "cuda/attention_entries.cu",
    "cuda/attention_paged.cu",
    "cuda/attention_reference.cu",
    "cuda/attention_sm80.cu",
    "cuda/attention_sm90.cu",
    "cuda/copy.cu",
    "cuda/copy.h",
    "cuda/elements_reference.cu",
    "cuda/gather.cu",
    "cuda/index.h",
    "cuda/map.cu",
    "cuda/matmul.h",
    "cuda/matmul_f32.cu",
    "cuda/matmul_groups.cu",
    "cuda/matmul_indices.cu",
    "cuda/matmul_merge.cu",
    "cuda/matmul_reference.cu",
    "cuda/matmul_scaled.h",
    "cuda/matmul_sm80.cu",
    "cuda/matmul_sm80_bytes.cu",
    "cuda/matmul_sm90.cu",
    "cuda/matmul_sm90_fp8.cu",
    "cuda/norm.cu",
    "cuda/norm_backward.cu",
    "cuda/ptx.h",
    "cuda/ptx/cluster.h",
    "cuda/ptx/convert.h",
    "cuda/ptx/cp_async.h",
    "cuda/ptx/mbarrier.h",
    "cuda/ptx/memory.h",
    "cuda/ptx/mma.h",
    "cuda/ptx/tma.h",
    "cuda/ptx/warp.h",
    "cuda/ptx/wgmma.h",
    "cuda/quantize.cu",
    "cuda/quantize.h",
    "cuda/reduce.cu",
    "cuda/rope.cu",
    "cuda/rows.h",
    "cuda/rows_reference.cu",
    "cuda/scatter.cu",
    "cuda/softmax.cu",
    "cuda/streaming_reference.h",
    "cuda/tile/byte.h",
    "cuda/tile/copies.h",
    "cuda/tile/descriptor.h",
    "cuda/tile/element.h",
    "cuda/tile/epilogue.h",
    "cuda/tile/fault.h",
    "cuda/tile/finish.h",
    "cuda/tile/fragment.h",
    "cuda/tile/functions.h",
    "cuda/tile/gradient_scores.h",
    "cuda/tile/gradient_sums.h",
    "cuda/tile/gradients.h",
    "cuda/tile/lines.h",
    "cuda/tile/output.h",
    "cuda/tile/parts.h",
    "cuda/tile/place.h",
    "cuda/tile/queries.h",
    "cuda/tile/ring.h",
    "cuda/tile/rows.h",
    "cuda/tile/scaled.h",
    "cuda/tile/scales.h",
    "cuda/tile/softmax.h",
    "cuda/tile/swizzle.h",
    "cuda/tile/tail.h",
    "cuda/tile/vector.h",
    "cuda/tile/walk.h",
    "cuda/tile/warp_products.h",
    "cuda/tile/warpgroup_products.h",
    "cuda/tile/warpgroups.h",
    "cuda/top_k.cu",
    "cuda/types.h",
    "cuda/view.h",
);

#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_are_distinct_and_rows_few() {
        let rows = rows();
        let keys: HashSet<String> = rows.iter().map(Row::key).collect();
        assert_eq!(keys.len(), rows.len());
        assert!(rows.len() <= 400, "{} rows an arch", rows.len());
    }

    /// Every source of this crate decides something of the kernels, but the list of them all and the rows that no plan
    /// names.
    #[test]
    fn every_source_that_decides_is_in_the_table() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let entries = std::fs::read_dir(root).expect("the sources");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| name.into_string().expect("a plain name"));
        let mut names: Vec<String> =
            names.filter(|name| name != "lib.rs" && name != "streaming_reference.rs").collect();
        names.sort();
        assert_eq!(names, TABLE.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn every_source_is_listed() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut folders = vec![root.join("cuda")];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the folder of kernels") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(root).expect("inside the crate");
                    files.push(name.to_str().expect("a plain name").to_owned());
                }
            }
        }
        files.sort();
        assert_eq!(files, SOURCES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
}

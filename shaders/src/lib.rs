//! WGSL shaders of Leasehold and their table: for each op its source, entry points and bindings. This crate knows
//! no GPU API; the wgpu backend of the runtime reads the table.

mod variants;

/// A binding of an op's kernels beside the uniform parameters, in the order of binding numbers from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The operand of this name; any words where the op has it not.
    Operand(&'static str),
    /// The output of this name once more, as atomic words, so that parts of words can be merged.
    Parts(&'static str),
    /// What a cut tile carries from link to link.
    State,
    /// Words of statistics, four a row; of a row or tile that is cut those carried from link to link.
    Stats,
    /// Partial results that entry points of a launch leave for each other.
    Scratch,
    /// Words made beforehand: by the host in `prepare`, or by the first entry point.
    Made,
    /// The first index out of range.
    Fault,
}

/// An op's kernels of one module.
#[derive(Clone, Copy, Debug)]
pub struct Shader {
    /// The op, as it is called on every floor.
    pub op: &'static str,
    /// Entry points, in the order in which a launch dispatches them.
    pub entries: &'static [&'static str],
    /// Bindings from number 1 on. Number 0 is the uniform parameters.
    pub bindings: &'static [Binding],
    /// Whether the pipeline is made per element type of the inputs, through the override `KIND`.
    pub kinds: bool,
    sources: &'static [&'static str],
}

impl Shader {
    /// The whole module: its sources, and for each output that has parts of words how it is written. `OUT` stands for
    /// the first of them, or the last operand, in the sources that many ops share.
    pub fn source(&self) -> String {
        let outputs: Vec<&str> = self.bindings.iter().filter_map(Binding::in_parts).collect();
        let last = self.bindings.iter().rev().find_map(Binding::operand);
        let main = outputs.first().copied().or(last).unwrap_or_default();
        let sources = self.sources.iter().map(|source| source.replace("OUT", main));
        sources.chain(outputs.iter().map(|name| STORE.replace("OUT", name))).collect()
    }
}

impl Binding {
    /// The operand that it is.
    fn operand(&self) -> Option<&'static str> {
        match self {
            Self::Operand(name) => Some(name),
            _ => None,
        }
    }

    /// The output whose parts of words it is.
    fn in_parts(&self) -> Option<&'static str> {
        match self {
            Self::Parts(name) => Some(name),
            _ => None,
        }
    }
}

/// The kernels of an op, if it has any.
pub fn shader(op: &str) -> Option<&'static Shader> {
    SHADERS.iter().find(|shader| shader.op == op)
}

/// The kernel beside an op's own that plans call so.
pub fn variant(kernel: &str) -> Option<&'static Variant> {
    VARIANTS.iter().find(|variant| variant.kernel == kernel)
}

const PRELUDE: &str = include_str!("wgsl/prelude.wgsl");
const ELEMENTS: &str = include_str!("wgsl/elements.wgsl");
const NEIGHBOURS: &str = include_str!("wgsl/neighbours.wgsl");
const ROWS: &str = include_str!("wgsl/rows.wgsl");
const FAULT: &str = include_str!("wgsl/fault.wgsl");
const BATCH: &str = include_str!("wgsl/batch.wgsl");
const HEADS: &str = include_str!("wgsl/heads.wgsl");
const LINES: &str = include_str!("wgsl/lines.wgsl");
const FOLD: &str = include_str!("wgsl/fold.wgsl");
const COLUMNS: &str = include_str!("wgsl/columns.wgsl");
const STORE: &str = include_str!("wgsl/store.wgsl");

pub use variants::{VARIANTS, Variant};

use Binding::{Fault, Made, Operand, Parts, Scratch, State, Stats};

/// Bindings of every kernel of products.
const PRODUCT: [Binding; 20] = [
    Operand("a"),
    Operand("b"),
    Operand("bias"),
    Operand("c"),
    Operand("gate"),
    Operand("residual"),
    Operand("scale_a"),
    Operand("scale_b"),
    Operand("sizes"),
    Operand("a_index"),
    Operand("b_index"),
    Operand("scale_out"),
    Operand("out"),
    Parts("out"),
    Operand("preactivation"),
    Parts("preactivation"),
    Operand("out_scale"),
    Made,
    State,
    Fault,
];

/// Bindings of every kernel of attention.
const ATTENTION: [Binding; 16] = [
    Operand("q"),
    Operand("k"),
    Operand("v"),
    Operand("mask"),
    Operand("alibi"),
    Operand("sinks"),
    Operand("rows"),
    Operand("lens"),
    Operand("pages"),
    Operand("out"),
    Parts("out"),
    Operand("lse"),
    Made,
    Stats,
    Scratch,
    Fault,
];

/// Every op that has kernels: those that any device runs.
pub const SHADERS: [Shader; 15] = [
    Shader {
        op: "matmul",
        entries: &["count", "matmul", "bytes"],
        bindings: &PRODUCT,
        kinds: true,
        sources: &[
            PRELUDE,
            FAULT,
            include_str!("wgsl/product.wgsl"),
            include_str!("wgsl/matmul.wgsl"),
            include_str!("wgsl/epilogue.wgsl"),
        ],
    },
    Shader {
        op: "attention",
        entries: &["count", "combine", "attention"],
        bindings: &ATTENTION,
        kinds: true,
        sources: &[PRELUDE, FAULT, BATCH, HEADS, include_str!("wgsl/attention.wgsl")],
    },
    Shader {
        op: "norm",
        entries: &["fold", "write"],
        bindings: &[
            Operand("x"),
            Operand("weight"),
            Operand("bias"),
            Operand("out"),
            Parts("out"),
            Stats,
        ],
        kinds: false,
        sources: &[PRELUDE, ROWS, LINES, FOLD, include_str!("wgsl/norm.wgsl"), COLUMNS, NEIGHBOURS],
    },
    Shader {
        op: "softmax",
        entries: &["fold", "write"],
        bindings: &[Operand("x"), Operand("out"), Parts("out"), Stats],
        kinds: false,
        sources: &[
            PRELUDE,
            ROWS,
            LINES,
            FOLD,
            include_str!("wgsl/softmax.wgsl"),
            COLUMNS,
            NEIGHBOURS,
        ],
    },
    Shader {
        op: "map",
        entries: &["map"],
        bindings: &[Operand("x"), Operand("y"), Operand("out"), Parts("out")],
        kinds: false,
        sources: &[PRELUDE, ELEMENTS, include_str!("wgsl/map.wgsl"), NEIGHBOURS],
    },
    Shader {
        op: "gather",
        entries: &["gather"],
        bindings: &[Operand("table"), Operand("index"), Operand("out"), Parts("out"), Fault],
        kinds: false,
        sources: &[PRELUDE, ELEMENTS, FAULT, include_str!("wgsl/gather.wgsl"), NEIGHBOURS],
    },
    Shader {
        op: "reduce",
        entries: &["fold", "write"],
        bindings: &[Operand("x"), Operand("out"), Parts("out"), Stats],
        kinds: false,
        sources: &[
            PRELUDE,
            ROWS,
            LINES,
            FOLD,
            include_str!("wgsl/reduce.wgsl"),
            COLUMNS,
            NEIGHBOURS,
        ],
    },
    Shader {
        op: "copy",
        entries: &["copy"],
        bindings: &[Operand("x"), Operand("out"), Parts("out")],
        kinds: false,
        sources: &[PRELUDE, ELEMENTS, include_str!("wgsl/copy.wgsl"), NEIGHBOURS],
    },
    Shader {
        op: "rope",
        entries: &["rope"],
        bindings: &[Operand("x"), Operand("position"), Operand("out"), Parts("out"), Made],
        kinds: false,
        sources: &[PRELUDE, ELEMENTS, include_str!("wgsl/rope.wgsl"), NEIGHBOURS],
    },
    Shader {
        op: "scatter",
        entries: &["scatter"],
        bindings: &[
            Operand("x"),
            Operand("index"),
            Operand("pages"),
            Operand("lens"),
            Operand("out"),
            Parts("out"),
            Fault,
        ],
        kinds: false,
        sources: &[PRELUDE, ELEMENTS, FAULT, include_str!("wgsl/scatter.wgsl")],
    },
    Shader {
        op: "arg_max",
        entries: &["fold"],
        bindings: &[Operand("x"), Operand("index"), Stats],
        kinds: false,
        sources: &[PRELUDE, ROWS, LINES, FOLD, include_str!("wgsl/arg_max.wgsl")],
    },
    Shader {
        op: "top_k",
        entries: &["fold"],
        bindings: &[Operand("x"), Operand("value"), Parts("value"), Operand("index"), State],
        kinds: false,
        sources: &[PRELUDE, ROWS, include_str!("wgsl/top_k.wgsl")],
    },
    Shader {
        op: "quantize",
        entries: &["fold", "write", "inverse"],
        bindings: &[
            Operand("x"),
            Operand("out"),
            Parts("out"),
            Operand("scale"),
            Parts("scale"),
            Operand("min"),
            Parts("min"),
            Stats,
        ],
        kinds: false,
        sources: &[PRELUDE, ROWS, LINES, FOLD, include_str!("wgsl/quantize.wgsl"), NEIGHBOURS],
    },
    Shader {
        op: "norm_backward",
        entries: &["fold", "write"],
        bindings: &[
            Operand("x"),
            Operand("weight"),
            Operand("d_out"),
            Operand("d_x"),
            Parts("d_x"),
            Operand("terms"),
            Stats,
        ],
        kinds: false,
        sources: &[
            PRELUDE,
            ROWS,
            FOLD,
            include_str!("wgsl/norm_backward.wgsl"),
            COLUMNS,
            NEIGHBOURS,
        ],
    },
    Shader {
        op: "attention_backward",
        entries: &["count", "queries", "keys"],
        bindings: &[
            Operand("q"),
            Operand("k"),
            Operand("v"),
            Operand("out"),
            Operand("lse"),
            Operand("d_out"),
            Operand("mask"),
            Operand("alibi"),
            Operand("rows"),
            Operand("lens"),
            Operand("d_q"),
            Parts("d_q"),
            Operand("d_k"),
            Parts("d_k"),
            Operand("d_v"),
            Parts("d_v"),
            Made,
            State,
            Fault,
        ],
        kinds: true,
        sources: &[PRELUDE, FAULT, BATCH, include_str!("wgsl/attention_backward.wgsl")],
    },
];

//! WGSL shaders of Leasehold and their table: for each op its source, entry points and bindings. This crate knows
//! no GPU API; the wgpu backend of the runtime reads the table.

/// A binding of an op's kernels beside the uniform parameters, in the order of binding numbers from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The operand of this name; any words where the op has it not.
    Operand(&'static str),
    /// The operand `out` once more, as atomic words, so that halves of words can be merged.
    Halves,
    /// What a cut tile carries from link to link.
    State,
    /// Two words of statistics a row.
    Stats,
    /// Key lengths, one a batch entry.
    Lens,
    /// The first index out of range.
    Fault,
}

/// An op's kernels.
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
    parts: &'static [&'static str],
}

impl Shader {
    /// The whole module.
    pub fn source(&self) -> String {
        self.parts.concat()
    }
}

/// The kernels of an op, if it has any.
pub fn shader(op: &str) -> Option<&'static Shader> {
    SHADERS.iter().find(|shader| shader.op == op)
}

const PRELUDE: &str = include_str!("wgsl/prelude.wgsl");
const ELEMENTS: &str = include_str!("wgsl/elements.wgsl");
const ROWS: &str = include_str!("wgsl/rows.wgsl");
const STORE: &str = include_str!("wgsl/store.wgsl");

use Binding::{Fault, Halves, Lens, Operand, State, Stats};

/// Every op that has kernels.
pub const SHADERS: [Shader; 8] = [
    Shader {
        op: "matmul",
        entries: &["matmul"],
        bindings: &[
            Operand("a"),
            Operand("b"),
            Operand("bias"),
            Operand("gate"),
            Operand("residual"),
            Operand("out"),
            Halves,
            State,
        ],
        kinds: true,
        parts: &[PRELUDE, include_str!("wgsl/matmul.wgsl"), STORE],
    },
    Shader {
        op: "attention",
        entries: &["attention"],
        bindings: &[
            Operand("q"),
            Operand("k"),
            Operand("v"),
            Operand("mask"),
            Operand("out"),
            Halves,
            Operand("lse"),
            Lens,
            State,
        ],
        kinds: true,
        parts: &[PRELUDE, include_str!("wgsl/attention.wgsl"), STORE],
    },
    Shader {
        op: "norm",
        entries: &["fold", "write"],
        bindings: &[
            Operand("x"),
            Operand("weight"),
            Operand("bias"),
            Operand("out"),
            Halves,
            Stats,
        ],
        kinds: false,
        parts: &[PRELUDE, ROWS, include_str!("wgsl/norm.wgsl"), STORE],
    },
    Shader {
        op: "softmax",
        entries: &["fold", "write"],
        bindings: &[Operand("x"), Operand("out"), Halves, Stats],
        kinds: false,
        parts: &[PRELUDE, ROWS, include_str!("wgsl/softmax.wgsl"), STORE],
    },
    Shader {
        op: "map",
        entries: &["map"],
        bindings: &[Operand("x"), Operand("y"), Operand("out"), Halves],
        kinds: false,
        parts: &[PRELUDE, ELEMENTS, include_str!("wgsl/map.wgsl"), STORE],
    },
    Shader {
        op: "gather",
        entries: &["gather"],
        bindings: &[Operand("table"), Operand("index"), Operand("out"), Halves, Fault],
        kinds: false,
        parts: &[PRELUDE, ELEMENTS, include_str!("wgsl/gather.wgsl"), STORE],
    },
    Shader {
        op: "reduce",
        entries: &["fold", "write"],
        bindings: &[Operand("x"), Operand("out"), Halves, Stats],
        kinds: false,
        parts: &[PRELUDE, ROWS, include_str!("wgsl/reduce.wgsl"), STORE],
    },
    Shader {
        op: "copy",
        entries: &["copy"],
        bindings: &[Operand("x"), Operand("out"), Halves],
        kinds: false,
        parts: &[PRELUDE, ELEMENTS, include_str!("wgsl/copy.wgsl"), STORE],
    },
];

//! The rows of the simple kernels of the ops that stream through memory, one an op and struct of arguments. Tests
//! hold the fast kernels to them; no plan names one, so no device compiles them and no pack has them.

/// The row of a simple kernel.
///
/// It is given the struct that the fast kernel's launches are given, by threads of which each does its part alone:
/// [`StreamingReference::blocks`]. A launch is one pass over its whole rows, whatever `pieces`, `state` and `pass`
/// say. The units of a [`crate::Range`] are elements, those of [`crate::QuantizeCellsArgs`] cells; the range of a
/// scatter that sets is that of its last pass, and its entries are whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamingReference {
    /// `copy`, a thread an element. Given [`crate::CopyArgs`].
    Copy,
    /// `map` of floats or integers, a thread an element. Given [`crate::MapArgs`].
    Map,
    /// `gather`, a thread an element. Given [`crate::GatherArgs`].
    Gather,
    /// `scatter` that sets or appends, a thread an element of an entry. Given [`crate::ScatterArgs`].
    Scatter,
    /// `scatter` that adds, a thread a column. Given [`crate::ScatterAddArgs`].
    ScatterAdd,
    /// `rope`, a thread a column. Given [`crate::RopeArgs`].
    Rope,
    /// `quantize` back, a thread an element. Given [`crate::DequantizeArgs`].
    Dequantize,
    /// `norm`, a thread a row. Given [`crate::NormArgs`].
    Norm,
    /// `norm_backward`, a thread a row. Given [`crate::NormBackwardArgs`].
    NormBackward,
    /// `softmax`, a thread a row. Given [`crate::SoftmaxArgs`].
    Softmax,
    /// `reduce`, a thread a row. Given [`crate::ReduceArgs`].
    Reduce,
    /// `arg_max`, a thread a row. Given [`crate::ArgMaxArgs`].
    ArgMax,
    /// `top_k`, a thread a row. Given [`crate::TopKArgs`].
    TopK,
    /// `quantize` with a scale for a row, or for the tensor, a thread a row. Given [`crate::QuantizeRowsArgs`].
    QuantizeRows,
    /// `quantize` with scales for cells, a thread a cell. Given [`crate::QuantizeCellsArgs`].
    QuantizeCells,
}

impl StreamingReference {
    /// Every row, those of a file side by side.
    pub const ALL: [Self; 15] = [
        Self::Copy,
        Self::Map,
        Self::Gather,
        Self::Scatter,
        Self::ScatterAdd,
        Self::Rope,
        Self::Dequantize,
        Self::Norm,
        Self::NormBackward,
        Self::Softmax,
        Self::Reduce,
        Self::ArgMax,
        Self::TopK,
        Self::QuantizeRows,
        Self::QuantizeCells,
    ];

    /// Threads of a block.
    pub(crate) const THREADS: u32 = 256;

    /// Blocks of a launch of so many threads.
    pub fn blocks(threads: u64) -> u64 {
        threads.div_ceil(Self::THREADS.into())
    }

    /// The function, and the struct of its launches.
    fn names(self) -> [&'static str; 2] {
        match self {
            Self::Copy => ["elements_reference::copy", "CopyArgs"],
            Self::Map => ["elements_reference::map", "MapArgs"],
            Self::Gather => ["elements_reference::gather", "GatherArgs"],
            Self::Scatter => ["elements_reference::scatter", "ScatterArgs"],
            Self::ScatterAdd => ["elements_reference::scatter_add", "ScatterAddArgs"],
            Self::Rope => ["elements_reference::rope", "RopeArgs"],
            Self::Dequantize => ["elements_reference::dequantize", "DequantizeArgs"],
            Self::Norm => ["rows_reference::norm", "NormArgs"],
            Self::NormBackward => ["rows_reference::norm_backward", "NormBackwardArgs"],
            Self::Softmax => ["rows_reference::softmax", "SoftmaxArgs"],
            Self::Reduce => ["rows_reference::reduce", "ReduceArgs"],
            Self::ArgMax => ["rows_reference::arg_max", "ArgMaxArgs"],
            Self::TopK => ["rows_reference::top_k", "TopKArgs"],
            Self::QuantizeRows => ["rows_reference::quantize_rows", "QuantizeRowsArgs"],
            Self::QuantizeCells => ["rows_reference::quantize_cells", "QuantizeCellsArgs"],
        }
    }

    /// The source without its ending, which is its namespace, and the function.
    fn parts(self) -> (&'static str, &'static str) {
        self.names()[0].split_once("::").unwrap_or_default()
    }

    pub(crate) fn key(self) -> String {
        format!("{}_reference", self.parts().1)
    }

    pub(crate) fn file(self) -> &'static str {
        match self.parts().0 {
            "elements_reference" => "cuda/elements_reference.cu",
            _ => "cuda/rows_reference.cu",
        }
    }

    pub(crate) fn template(self) -> (&'static str, String, &'static str) {
        let [run, args] = self.names();
        (args, "streaming_reference::Shape".into(), run)
    }
}

//! The one error of the library: what went wrong, whose fault it is, and whether trying again can help.
//! Every room of the crate returns it; the wire carries its [`Kind`] by number.

mod rule;

pub use rule::Rule;

use std::fmt;

/// Result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Values are what was asked and what was allowed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Kind {
    /// A shape, rank or length that breaks the op's rule.
    #[error("shape {asked}, allowed {allowed}")]
    Shape {
        /// The shape or size given.
        asked: String,
        /// What the rule allows.
        allowed: String,
    },
    /// An element type that the operand cannot have.
    #[error("dtype {asked}, allowed {allowed}")]
    DType {
        /// The dtype given.
        asked: String,
        /// The dtypes allowed.
        allowed: String,
    },
    /// Strides or an offset that the rule forbids.
    #[error("layout {asked}, allowed {allowed}")]
    Layout {
        /// The strides or offset given.
        asked: String,
        /// What the rule allows.
        allowed: String,
    },
    /// A view that reaches outside its allocation.
    #[error("bytes up to {asked}, allocation has {allowed}")]
    Bounds {
        /// One past the last byte that the view would touch.
        asked: String,
        /// The allocation's length in bytes.
        allowed: String,
    },
    /// An output that overlaps another operand.
    #[error("output overlaps {asked}, allowed {allowed}")]
    Alias {
        /// The operand overlapped.
        asked: String,
        /// The overlap that would be allowed.
        allowed: String,
    },
    /// A number that is not allowed: a scale, an epsilon, an axis.
    #[error("value {asked}, allowed {allowed}")]
    Value {
        /// The value given.
        asked: String,
        /// The values allowed.
        allowed: String,
    },
    /// Legal, but not built or beyond a limit of this device.
    #[error("unsupported: {asked}, limit {allowed}")]
    Unsupported {
        /// What was asked for.
        asked: String,
        /// The limit that it exceeds, or what is supported.
        allowed: String,
    },
    /// Predicted work beyond the lease's limit or the cap of a unit.
    #[error("predicted {asked} ns, allowed {allowed} ns")]
    Time {
        /// Predicted nanoseconds.
        asked: u128,
        /// Nanoseconds allowed.
        allowed: u128,
    },
    /// Device memory or the lease's quota is exhausted.
    #[error("out of memory: {asked} bytes asked, {free} free of {quota}")]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes still free.
        free: u64,
        /// Bytes in all.
        quota: u64,
    },
    /// An index in device memory was out of range; the access was dropped or read as zero.
    #[error("index {value} out of range, bound {bound}")]
    Index {
        /// The index as unsigned 32 bits.
        value: u32,
        /// The exclusive bound it was held against.
        bound: u32,
    },
    /// The wait ended before the work did.
    #[error("not done after {waited_ms} ms")]
    Timeout {
        /// Milliseconds waited.
        waited_ms: u64,
    },
    /// The queue is full and the caller chose not to wait.
    #[error("queue is full at {limit} entries")]
    QueueFull {
        /// Entries that the queue holds.
        limit: u64,
    },
    /// Tensors of two devices in one op.
    #[error("tensors of different devices: {asked} and {allowed}")]
    Device {
        /// The other device.
        asked: String,
        /// The op's device.
        allowed: String,
    },
    /// No device can be opened.
    #[error("no device: {why}")]
    NoDevice {
        /// What was tried and why it was passed over.
        why: String,
    },
    /// An environment variable with a value that is not allowed.
    #[error("{name} is {asked:?}, allowed {allowed}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// Its value.
        asked: String,
        /// The values allowed.
        allowed: &'static str,
    },
    /// The process forked; the child must open its own session.
    #[error("process forked: pid {pid} must open its own session")]
    Forked {
        /// The child's process id.
        pid: u32,
    },
    /// The lease was revoked, reclaimed or drained.
    #[error("lease revoked")]
    Revoked,
    /// The lease's time is over.
    #[error("lease expired")]
    Expired,
    /// The device or its executor is gone; every buffer went with it.
    #[error("device lost: {why}")]
    DeviceLost {
        /// What was seen.
        why: String,
    },
    /// The peer broke the wire's rules.
    #[error("protocol: {what}, asked {asked}, allowed {allowed}")]
    Protocol {
        /// The field or rule.
        what: &'static str,
        /// The value received.
        asked: u64,
        /// The bound it broke.
        allowed: u64,
    },
    /// A call of the operating system failed.
    #[error("{call}: {source_text}")]
    System {
        /// The call.
        call: &'static str,
        /// The system's own words.
        source_text: String,
    },
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The program asked for something it may not have.
    Tenant,
    /// The owner of the device took it back or configured it so.
    Owner,
    /// The device or the machine failed.
    Device,
}

/// An error with the op, operand and rule it concerns. [`Error::kind`] tells what, [`Error::fault`] whose.
#[derive(Clone, PartialEq)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq)]
struct Inner {
    kind: Kind,
    op: Option<&'static str>,
    operand: Option<&'static str>,
    rule: Option<Rule>,
}

impl Error {
    /// A rejection by `rule` of an operand (or of the op itself, `None`), with what was asked and allowed.
    pub fn rejected(
        rule: Rule,
        operand: Option<&'static str>,
        asked: impl fmt::Display,
        allowed: impl fmt::Display,
    ) -> Self {
        let kind = rule.kind(asked.to_string(), allowed.to_string());
        Self(Box::new(Inner { kind, op: None, operand, rule: Some(rule) }))
    }

    /// The same error, naming the op it concerns. The first name stays.
    #[must_use]
    pub fn in_op(mut self, op: &'static str) -> Self {
        self.0.op.get_or_insert(op);
        self
    }

    /// A failed system call, with the system's own words.
    pub fn system(call: &'static str, error: std::io::Error) -> Self {
        Kind::System { call, source_text: error.to_string() }.into()
    }

    /// What went wrong.
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// The op concerned, if one is.
    pub fn op(&self) -> Option<&'static str> {
        self.0.op
    }

    /// The rule that refused the op, if `check` did.
    pub fn rule(&self) -> Option<Rule> {
        self.0.rule
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self.0.kind {
            Kind::Revoked | Kind::Expired | Kind::NoDevice { .. } => Fault::Owner,
            Kind::DeviceLost { .. } | Kind::System { .. } => Fault::Device,
            _ => Fault::Tenant,
        }
    }

    /// Whether the same call may succeed later, on this node or another.
    pub fn retryable(&self) -> bool {
        matches!(
            self.0.kind,
            Kind::Revoked
                | Kind::DeviceLost { .. }
                | Kind::Timeout { .. }
                | Kind::QueueFull { .. }
                | Kind::OutOfMemory { .. }
        )
    }
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self(Box::new(Inner { kind, op: None, operand: None, rule: None }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, op, operand, rule } = &*self.0;
        if let Some(op) = op {
            write!(f, "{op}: ")?;
        }
        if let Some(operand) = operand {
            write!(f, "{operand}: ")?;
        }
        write!(f, "{kind}")?;
        match rule {
            Some(rule) => write!(f, " ({})", rule.text()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [{:?}]", self.0.kind)
    }
}

impl std::error::Error for Error {}

//! What control and an executor say to each other, on one sequenced-packet socket that the executor inherits.
//! Control decides who may use the device; the executor alone touches it, and enforces what it was told even when
//! control has gone.

use leasehold::wire::VERSION;
use serde::{Deserialize, Serialize};

/// The version of these messages; control and executor come from one build.
pub const PROTOCOL: u32 = VERSION;

/// Where the pulse's page holds the job whose work touches the device, 0: none.
pub const PULSE_JOB: u64 = 0;
/// And nanoseconds that the device's own threads spent beside launches and zeroing so far.
pub const PULSE_IDLE: u64 = 64;

/// What a job may do on the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Jobs of one lease share this number: its memory, its share of time.
    pub lease: u64,
    /// Share among leases of the same priority.
    pub weight: u32,
    /// Whether it comes after those that reserved.
    pub spare: bool,
    /// Device time ahead of everyone: period and budget in nanoseconds.
    pub latency: Option<[u64; 2]>,
    /// Bytes of device memory, all jobs of the lease together.
    pub memory: u64,
    /// Predicted nanoseconds that one op may take.
    pub op_cap_ns: u64,
    /// Names of the ops that may run; none: every op.
    pub ops: Option<Vec<String>>,
    /// Records in flight of a session.
    pub in_flight: u32,
    /// Sessions at a time, all jobs of the lease together.
    pub sessions: u32,
    /// The job's end on the boot-time clock, in nanoseconds.
    pub deadline_ns: u64,
}

/// To the executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToExecutor {
    /// A job was admitted; beside the message its door, if the executor shall keep one for a control that comes back.
    Job {
        /// Control's number for it: that of its record in the ledger, never 0.
        job: u64,
        /// What it may do.
        terms: Terms,
    },
    /// A session of a job; beside the message its socket, submit, staging and completion memory.
    Session {
        /// The job.
        job: u64,
        /// Control's number for the session.
        session: u64,
    },
    /// The job is over: close its sessions, zero what it leaves, settle.
    End {
        /// The job.
        job: u64,
        /// Why, for sessions that still live.
        why: Why,
    },
    /// The job's record is written: what it used may be forgotten.
    Written {
        /// The job.
        job: u64,
    },
    /// Settle everything and exit.
    Shutdown,
}

/// Why a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// The job's program has ended.
    Exited,
    /// The operator or the owner took the lease back.
    Revoked,
    /// Its time is over.
    Expired,
}

/// From the executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromExecutor {
    /// First of all, to each control: the device; beside the message the page of the pulse, which says at any moment
    /// whose work touches the device, and how long its threads were idle.
    Device(Device),
    /// Then each job that an earlier control told of and has not written down; beside the message its door.
    Kept {
        /// The job.
        job: u64,
        /// What it may do; none when it has ended.
        terms: Option<Terms>,
    },
    /// Then nothing more that is old.
    Ready {
        /// The executor's process.
        pid: u32,
        /// The highest number of a session so far.
        sessions: u64,
    },
    /// The session's memory is mapped; its completion ring may now be sealed.
    Mapped {
        /// The session.
        session: u64,
    },
    /// No such job, or too many sessions.
    Refused {
        /// The session.
        session: u64,
        /// Why.
        why: String,
    },
    /// The job is over, its memory zeroed: what it used.
    Settled {
        /// The job.
        job: u64,
        /// What it used.
        usage: Usage,
    },
}

/// The device that an executor owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// [`PROTOCOL`] of the executor.
    pub protocol: u32,
    /// The device's own name.
    pub name: String,
    /// The backend's name.
    pub backend: String,
    /// The arch class.
    pub arch: String,
    /// Equal id, equal bits.
    pub numerics: [u8; 32],
    /// Bytes of the executor's budget.
    pub memory: u64,
    /// Largest allocation in bytes.
    pub max_alloc: u64,
    /// Largest span of one operand in bytes.
    pub max_binding: u64,
    /// Predicted nanoseconds that a unit may take.
    pub unit_cap_ns: u64,
}

/// What a job used. Sums over its sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Nanoseconds that the device was busy with its ops.
    pub busy_ns: u64,
    /// Nanoseconds that the device was busy zeroing what it took and what it left.
    pub zeroing_ns: u64,
    /// Bytes of device memory held, times nanoseconds.
    pub memory_byte_ns: u128,
    /// Bytes copied to the device.
    pub bytes_up: u64,
    /// Bytes copied from the device.
    pub bytes_down: u64,
    /// Ops run to their end.
    pub ops: u64,
    /// Units launched.
    pub units: u64,
    /// Nanoseconds that its records waited while others ran.
    pub queue_wait_ns: u64,
    /// Hash of the plans it ran, in order of their definition.
    pub plans: [u8; 32],
}

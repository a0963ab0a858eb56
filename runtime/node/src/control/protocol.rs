//! What a job's starter (`job`) and control say to each other, on a sequenced-packet socket. The starter's word about
//! its jail is a claim; the lease, the proof and the kernel's own news are what control goes by.

use crate::lease::{JobId, NONCE_BYTES};
use crate::ledger::Outcome;
use serde::{Deserialize, Serialize};

/// The version of these messages.
pub const VERSION: u32 = 1;

/// From the starter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromClient {
    /// First of all.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// Asks to start a job.
    Admit {
        /// The lease's text.
        token: String,
        /// A fresh id.
        job: JobId,
        /// The holder's signature over the challenge.
        proof: Vec<u8>,
        /// Seconds of run time asked; none: what the lease allows.
        wall_s: Option<u64>,
    },
    /// Takes up a job again that was admitted before control was restarted.
    Attach {
        /// The lease's text.
        token: String,
        /// The job.
        job: JobId,
        /// The holder's signature over the challenge.
        proof: Vec<u8>,
    },
    /// The jail has ended.
    Ended {
        /// How, as the starter saw it.
        outcome: Outcome,
    },
    /// On the admin socket: take a lease back.
    Revoke {
        /// The lease.
        lease: crate::lease::LeaseId,
    },
    /// On the admin socket: what the device does beside what is billed.
    Idle,
}

/// From control.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToClient {
    /// Who answers, and what to sign.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The node's name.
        node: String,
        /// To be signed; used once.
        nonce: [u8; NONCE_BYTES],
        /// The device, for people.
        device: String,
    },
    /// The job may start; beside the message the job's session socket.
    Admitted {
        /// The job's end on the boot-time clock, in nanoseconds.
        deadline_ns: u64,
    },
    /// The job is the starter's again: words about it come here.
    Attached,
    /// No.
    Refused {
        /// Why, with asked and allowed values.
        why: String,
        /// Whether a later try may succeed.
        retryable: bool,
    },
    /// The job must end now.
    Stop {
        /// What its record will say.
        outcome: Outcome,
    },
    /// The settle record is written.
    Settled {
        /// The receipt as JSON: its types read only self-describing formats.
        receipt: String,
    },
    /// Done, on the admin socket: jobs that were ended.
    Done {
        /// How many.
        jobs: u64,
    },
    /// On the admin socket: what the executor's threads did beside launches and zeroing since it was started.
    Idle {
        /// Nanoseconds, over the number of threads; 0 where the device is not made of threads.
        idle_ns: u64,
    },
}

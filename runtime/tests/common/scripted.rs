//! A CPU whose launches a test holds back, or whose device it loses, so that what a tenant sees of waiting and
//! of loss does not hang on luck; and one with a vendor's library that refuses every op.
#![cfg(feature = "cpu")]

use leasehold::backend::cpu::Cpu;
use leasehold::backend::{Backend, BlockId, Caps, Mark, NoSegment, Place, Progress};
use leasehold::op::{BoundOp, CheckedOp};
use leasehold::order::{Family, Order, Plan, UnitRange};
use leasehold::{Error, Kind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What the device does at its next call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mood {
    #[default]
    Sound,
    /// Launches wait.
    Held,
    /// Every call answers `DeviceLost`.
    Lost,
}

/// What a test keeps of its [`Scripted`].
#[derive(Clone, Debug, Default)]
pub struct Script(Arc<(Mutex<Mood>, Condvar)>);

impl Script {
    pub fn hold(&self) {
        self.set(Mood::Held);
    }

    pub fn release(&self) {
        self.set(Mood::Sound);
    }

    pub fn lose(&self) {
        self.set(Mood::Lost);
    }

    fn set(&self, mood: Mood) {
        *self.0.0.lock().unwrap() = mood;
        self.0.1.notify_all();
    }

    /// Waits while launches are held.
    fn pass(&self) -> Result<(), Error> {
        let mood = self.0.0.lock().unwrap();
        let mood = self.0.1.wait_while(mood, |mood| *mood == Mood::Held).unwrap();
        if *mood == Mood::Lost { Err(lost()) } else { Ok(()) }
    }

    fn alive(&self) -> Result<(), Error> {
        if *self.0.0.lock().unwrap() == Mood::Lost { Err(lost()) } else { Ok(()) }
    }
}

fn lost() -> Error {
    Kind::DeviceLost { why: "by the script".into() }.into()
}

/// The name of the library's plans, and of one of the CPU's that no unit has time for.
pub const LIBRARY: &str = "library";
pub const LONG: &str = "long";

/// The backend, and whether it has the library.
pub struct Scripted(Cpu, Script, bool);

impl Scripted {
    /// A CPU of `memory` bytes, sound at first.
    pub fn new(memory: u64) -> (Self, Script) {
        let script = Script::default();
        (Self(Cpu::with_threads(1).unwrap().with_memory(memory), script.clone(), false), script)
    }

    /// The same with plans of a library before its own.
    pub fn with_library(self) -> Self {
        Self(self.0, self.1, true)
    }
}

impl Backend for Scripted {
    type Prepared = Plan;
    type Segment = NoSegment;

    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn digest(&self) -> [u8; 32] {
        self.0.digest()
    }

    fn alloc(&mut self, bytes: u64) -> Result<BlockId, Error> {
        self.1.alive()?;
        self.0.alloc(bytes)
    }

    fn free(&mut self, block: BlockId) {
        self.0.free(block);
    }

    fn zero(&mut self, block: BlockId, offset: u64, len: u64) -> Result<(), Error> {
        self.1.alive()?;
        self.0.zero(block, offset, len)
    }

    fn upload(&mut self, block: BlockId, offset: u64, src: &[u8]) -> Result<(), Error> {
        self.1.alive()?;
        self.0.upload(block, offset, src)
    }

    fn download(&mut self, block: BlockId, offset: u64, dst: &mut [u8]) -> Result<(), Error> {
        self.1.alive()?;
        self.0.download(block, offset, dst)
    }

    fn copy(&mut self, src: Place, dst: Place, len: u64) -> Result<(), Error> {
        self.1.alive()?;
        self.0.copy(src, dst, len)
    }

    fn candidates(&self, op: &CheckedOp) -> Result<Vec<Plan>, Error> {
        let ours = self.0.candidates(op)?;
        if !self.2 {
            return Ok(ours);
        }
        let one = Plan { tiles: 1, links: 1, wave: 1, state_bytes: 0, ..ours[0] };
        let order = Order { entry: LIBRARY, family: Family::Vendor, ..one.order };
        let library = Plan { order, kernel: LIBRARY, unit_ns: 1, wave_ns: 1, ..one };
        let wave_ns = self.caps().unit_cap_ns + 1;
        let long = Plan { kernel: LONG, unit_ns: 2, wave_ns, ..one };
        Ok([vec![library, long], ours].concat())
    }

    fn prepare(&mut self, op: &CheckedOp, plan: &Plan) -> Result<Plan, Error> {
        if plan.kernel == LIBRARY {
            let (asked, allowed) = (format!("{op:?}"), "nothing".into());
            return Err(Kind::Unsupported { asked, allowed }.into());
        }
        self.0.prepare(op, plan)
    }

    fn launch(
        &mut self,
        plan: &mut Plan,
        units: UnitRange,
        op: &BoundOp,
        places: &[Place],
        state: Option<Place>,
    ) -> Result<(), Error> {
        self.1.pass()?;
        self.0.launch(plan, units, op, places, state)
    }

    fn replay(&mut self, segment: &NoSegment) -> Result<(), Error> {
        match *segment {}
    }

    fn mark(&mut self) -> Result<Mark, Error> {
        self.1.alive()?;
        self.0.mark()
    }

    fn poll(&mut self, mark: Mark, timeout: Option<Duration>) -> Result<Progress, Error> {
        self.1.alive()?;
        self.0.poll(mark, timeout)
    }
}

//! Launches kept as a graph of the driver's, to be enqueued again as one. `mod` calls it.

use super::api::{CAPTURE, CAPTURES, Code, Graphs, REFUSED};
use super::driver::{Context, Stream};
use crate::error::Result;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

/// What a stream was told between two moments, ready to be enqueued again.
pub(super) struct Graph {
    context: Arc<Context>,
    graphs: &'static Graphs,
    handle: *mut c_void,
}

// SAFETY: a handle that any thread may use while the context is current there.
unsafe impl Send for Graph {}

impl Graph {
    /// Keeps what `launch` enqueues on the stream instead of doing it. It launches kernels and nothing else: a capture
    /// takes no questions and no allocations. `None` where the driver has no graphs or refuses this one.
    ///
    /// # Errors
    /// What `launch` fails with, `OutOfMemory` where there is no room for it now, or `DeviceLost`.
    pub(super) fn capture(
        context: &Arc<Context>,
        stream: &Stream,
        launch: impl FnOnce() -> Result<()>,
    ) -> Result<Option<Self>> {
        let Some(graphs) = &context.api.graphs else { return Ok(None) };
        context.enter()?;
        // SAFETY: the stream lives, and is captured by nobody else: one thread uses it at a time.
        let code = unsafe { (graphs.cuStreamBeginCapture_v2)(stream.handle(), CAPTURE) };
        if !is_done(context, "cuStreamBeginCapture", code)? {
            return Ok(None);
        }
        let launched = launch();
        let mut graph = null_mut();
        // SAFETY: begun above; the graph is written, as null when the capture failed.
        let code = unsafe { (graphs.cuStreamEndCapture)(stream.handle(), &mut graph) };
        let ended = is_done(context, "cuStreamEndCapture", code);
        let mut handle = null_mut();
        let made = match (&launched, &ended) {
            // SAFETY: the graph was made above; what is launched of it is written.
            (Ok(()), Ok(true)) => unsafe {
                let code = (graphs.cuGraphInstantiateWithFlags)(&mut handle, graph, 0);
                is_done(context, "cuGraphInstantiate", code)
            },
            _ => Ok(false),
        };
        if !graph.is_null() {
            // SAFETY: made above, and named by nothing any more.
            unsafe { (graphs.cuGraphDestroy)(graph) };
        }
        launched?;
        let is_made = ended? && made?;
        Ok(is_made.then(|| Self { context: Arc::clone(context), graphs, handle }))
    }

    /// Enqueues all of it.
    ///
    /// # Errors
    /// `OutOfMemory`, or `DeviceLost`.
    pub(super) fn launch(&self, stream: &Stream) -> Result<()> {
        self.context.enter()?;
        // SAFETY: both live. Whoever made it keeps the memory that its launches name.
        let code = unsafe { (self.graphs.cuGraphLaunch)(self.handle, stream.handle()) };
        self.context.check("cuGraphLaunch", code)
    }
}

/// Whether a call was done; not where it was refused, which costs speed and no result.
fn is_done(context: &Context, call: &'static str, code: Code) -> Result<bool> {
    let is_refused = REFUSED.iter().chain([&CAPTURES]).any(|refused| refused.contains(&code));
    if is_refused {
        return Ok(false);
    }
    context.check(call, code).map(|()| true)
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made by `capture`; what was launched of it the driver still does.
            unsafe { (self.graphs.cuGraphExecDestroy)(self.handle) };
        }
    }
}

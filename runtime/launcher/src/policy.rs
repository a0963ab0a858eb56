//! What a jail shall be, as plain data. [`PolicyDraft::check`] is the one place where a request is
//! judged, and [`Policy`] is the proof that it passed: it has no other constructor, and decoding
//! one from bytes checks it again.

use crate::report::{Layer, Step};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, ops::Deref, path::PathBuf, time::Duration};
use thiserror::Error;

/// Longest encoded policy, in bytes; it must fit one message of a local socket.
pub const MAX_POLICY_BYTES: usize = 96 * 1024;
const MAX_LIST: usize = 1024;
const MAX_BINDS: usize = 64;
const MIN_MEMORY: u64 = 1 << 20;

/// What kind of program the jail is furnished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// A native program, static or dynamically linked.
    Compute,
    /// A Python interpreter and what its standard library needs.
    Python,
    /// Any program. Reserved: asking for it answers [`PolicyError::Unsupported`].
    General,
}

/// A file or folder of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// A folder that `path` must stay beneath, with no symlink on the way. `None`: `path` was
    /// named by the caller itself and is resolved like any path of his.
    pub beneath: Option<PathBuf>,
    /// The path: absolute without `beneath`, relative with it.
    pub path: PathBuf,
}

impl Source {
    /// A path that the caller himself names.
    pub fn named(path: impl Into<PathBuf>) -> Self {
        Self { beneath: None, path: path.into() }
    }

    /// A path that somebody else chose: resolved beneath `dir`, refused if a symlink is on the way.
    pub fn beneath(dir: impl Into<PathBuf>, path: impl Into<PathBuf>) -> Self {
        Self { beneath: Some(dir.into()), path: path.into() }
    }
}

/// A user and a group of the host, both unprivileged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostId {
    /// User id on the host.
    pub uid: u32,
    /// Group id on the host.
    pub gid: u32,
}

/// Upper bounds of what the job may use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Time from the job's start to its end, measured on the boot-time clock. `None`: no bound.
    pub wall: Option<Duration>,
    /// Bytes of memory of the whole job, files in /tmp, /dev/shm and /out included.
    pub memory: u64,
    /// Processors, in thousandths: 1500 is one and a half.
    pub milli_cpus: u32,
    /// Processes and threads.
    pub pids: u32,
    /// Longest file, in bytes; of each output too.
    pub file: u64,
    /// Bytes of /tmp, and of /dev/shm, and of /out.
    pub tmp: u64,
}

impl Default for Limits {
    /// No time limit, 2 GiB, all processors, 512 processes, 1 GiB a file and in /tmp.
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        Self {
            wall: None,
            memory: 2 << 30,
            milli_cpus: cpus.saturating_mul(1000),
            pids: 512,
            file: 1 << 30,
            tmp: 1 << 30,
        }
    }
}

/// What only the tests of the sandbox ask of a launcher built with the feature `probe`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Layers that are left out.
    pub without: Vec<Layer>,
    /// A system call whose line is taken out of the filter.
    pub without_call: Option<i64>,
    /// Wait before this step, so that a test can kill the launcher there.
    pub stop_at: Option<Step>,
    /// Report the time of each step.
    pub timings: bool,
}

/// A request for a jail, not yet judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyDraft {
    /// What the jail is furnished for.
    pub profile: Profile,
    /// The program, a file of the host.
    pub program: Source,
    /// Arguments, the program's name first.
    pub argv: Vec<String>,
    /// `KEY`, `VALUE` pairs added to the fixed environment.
    pub env: Vec<(String, String)>,
    /// Name and source of what the job may read at `/in/<name>`.
    pub inputs: Vec<(String, Source)>,
    /// Names of the regular files that the job may leave at `/out/<name>`.
    pub outputs: Vec<String>,
    /// Upper bounds.
    pub limits: Limits,
    /// The host id to become; needed by root and only for root.
    pub host_id: Option<HostId>,
    /// Refuse a layer that is only partly enforced, soft ones too.
    pub strict: bool,
}

impl PolicyDraft {
    /// A draft with default limits for `program`, called by its file name and `args`.
    pub fn new(profile: Profile, program: Source, args: &[&str]) -> Self {
        let name = program.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self {
            profile,
            program,
            argv: std::iter::once(name).chain(args.iter().map(|a| (*a).to_owned())).collect(),
            env: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            limits: Limits::default(),
            host_id: None,
            strict: false,
        }
    }

    /// Judges the whole request.
    ///
    /// # Errors
    /// The first rule that it breaks, with the value and what is allowed.
    pub fn check(self) -> Result<Policy, PolicyError> {
        if self.profile == Profile::General {
            return Err(PolicyError::Unsupported { asked: "general" });
        }
        check_list("arguments", self.argv.len(), MAX_LIST)?;
        check_list("environment variables", self.env.len(), MAX_LIST)?;
        check_list("inputs", self.inputs.len(), MAX_BINDS)?;
        check_list("outputs", self.outputs.len(), MAX_BINDS)?;
        if self.argv.is_empty() {
            return Err(PolicyError::NoArguments);
        }
        for text in &self.argv {
            check_text("argument", text)?;
        }
        let mut keys = HashSet::new();
        for (key, value) in &self.env {
            check_env(key, value)?;
            if !keys.insert(key) {
                return Err(PolicyError::Twice { what: "variable", name: key.clone() });
            }
        }
        check_source(&self.program)?;
        check_names("input", self.inputs.iter().map(|(name, _)| name))?;
        check_names("output", self.outputs.iter())?;
        self.inputs.iter().try_for_each(|(_, source)| check_source(source))?;
        check_limits(&self.limits)?;
        match self.host_id {
            Some(HostId { uid, gid })
                if uid == 0 || gid == 0 || uid == u32::MAX || gid == u32::MAX =>
            {
                return Err(PolicyError::HostId { uid, gid });
            }
            _ => {}
        }
        let policy = Policy { draft: self, probe: Probe::default() };
        let bytes = policy.encode().len();
        if bytes > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLarge { bytes, allowed: MAX_POLICY_BYTES });
        }
        Ok(policy)
    }
}

/// A request for a jail that was judged and found whole. Reads like its [`PolicyDraft`].
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    draft: PolicyDraft,
    probe: Probe,
}

impl Deref for Policy {
    type Target = PolicyDraft;
    fn deref(&self) -> &PolicyDraft {
        &self.draft
    }
}

impl Policy {
    /// The tests' wishes; empty unless a test set them.
    #[doc(hidden)]
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// For the tests of the sandbox alone: a launcher without the feature `probe` refuses this.
    #[doc(hidden)]
    pub fn with_probe(mut self, probe: Probe) -> Self {
        self.probe = probe;
        self
    }

    /// The bytes that the launcher reads.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(&(&self.draft, &self.probe)).unwrap_or_default()
    }

    /// Reads what [`Policy::encode`] wrote, and judges it again.
    ///
    /// # Errors
    /// [`PolicyError::Encoding`], or the rule that the decoded request breaks.
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        let (draft, probe): (PolicyDraft, Probe) =
            postcard::from_bytes(bytes).map_err(|_| PolicyError::Encoding)?;
        Ok(draft.check()?.with_probe(probe))
    }

    /// The whole environment of the job, in the form `KEY=VALUE`: the fixed part, then the policy's.
    pub fn environment(&self, session: bool) -> Vec<String> {
        let fixed = [
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("HOME", "/tmp"),
            ("TMPDIR", "/tmp"),
            ("LANG", "C.UTF-8"),
        ];
        let set = |key: &str| self.env.iter().any(|(k, _)| k == key);
        let mut all: Vec<String> =
            fixed.iter().filter(|(k, _)| !set(k)).map(|(k, v)| format!("{k}={v}")).collect();
        all.extend(self.env.iter().map(|(k, v)| format!("{k}={v}")));
        if session {
            all.push(format!("LEASEHOLD_FD={}", crate::SESSION_FD));
        }
        all
    }
}

/// The rule that a request broke.
#[derive(Debug, Error, PartialEq)]
#[allow(missing_docs)] // each message says what its fields are
pub enum PolicyError {
    #[error("profile {asked} is not supported; compute and python are")]
    Unsupported { asked: &'static str },
    #[error("no argument; the program's name must be the first")]
    NoArguments,
    #[error("{len} {what}, at most {allowed} are allowed")]
    TooMany { what: &'static str, len: usize, allowed: usize },
    #[error("the policy takes {bytes} bytes, at most {allowed} are allowed")]
    TooLarge { bytes: usize, allowed: usize },
    #[error("{what} {text:?} holds a NUL byte")]
    Nul { what: &'static str, text: String },
    #[error("variable name {key:?} is not of the form [A-Za-z_][A-Za-z0-9_]*")]
    EnvName { key: String },
    #[error(
        "variable {key}={value:?} is refused: it makes a loader, shell or interpreter run or read other code"
    )]
    EnvRefused { key: String, value: String },
    #[error("{what} {name:?} is named twice")]
    Twice { what: &'static str, name: String },
    #[error(
        "{what} name {name:?} is not of the form [A-Za-z0-9_][A-Za-z0-9_.-]*, at most 64 bytes"
    )]
    Name { what: &'static str, name: String },
    #[error("path {path:?} must be {must}")]
    Path { path: PathBuf, must: &'static str },
    #[error("{what} is {asked}, at least {least} is needed")]
    TooLow { what: &'static str, asked: u64, least: u64 },
    #[error("host id {uid}:{gid} is not an unprivileged user and group")]
    HostId { uid: u32, gid: u32 },
    #[error("the bytes are no policy of this version")]
    Encoding,
}

fn check_list(what: &'static str, len: usize, allowed: usize) -> Result<(), PolicyError> {
    if len > allowed { Err(PolicyError::TooMany { what, len, allowed }) } else { Ok(()) }
}

fn check_text(what: &'static str, text: &str) -> Result<(), PolicyError> {
    if text.contains('\0') { Err(PolicyError::Nul { what, text: text.to_owned() }) } else { Ok(()) }
}

/// Variables that change which code a program loads or runs. The jail would contain that too, but
/// a job file that sets one is an attack on somebody (CVE-2025-23266 was one on the set-up hook).
fn check_env(key: &str, value: &str) -> Result<(), PolicyError> {
    const REFUSED: [&str; 12] = [
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "LOCPATH",
        "NLSPATH",
        "BASH_ENV",
        "ENV",
        "SHELLOPTS",
        "PS4",
        "PROMPT_COMMAND",
        "PYTHONSTARTUP",
        "PERL5OPT",
        "NODE_OPTIONS",
    ];
    let mut chars = key.chars();
    let head = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !head || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(PolicyError::EnvName { key: key.to_owned() });
    }
    check_text("value", value)?;
    let prefix = ["LD_", "LEASEHOLD_", "MALLOC_", "BASH_FUNC_"].iter().any(|p| key.starts_with(p));
    if prefix || REFUSED.contains(&key) {
        return Err(PolicyError::EnvRefused { key: key.to_owned(), value: value.to_owned() });
    }
    Ok(())
}

fn check_names<'a>(
    what: &'static str,
    names: impl Iterator<Item = &'a String>,
) -> Result<(), PolicyError> {
    let mut seen = HashSet::new();
    for name in names {
        let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let head = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if !head || name.len() > 64 || !name.chars().all(ok) {
            return Err(PolicyError::Name { what, name: name.clone() });
        }
        if !seen.insert(name) {
            return Err(PolicyError::Twice { what, name: name.clone() });
        }
    }
    Ok(())
}

fn check_source(source: &Source) -> Result<(), PolicyError> {
    let must = |path: &PathBuf, must| Err(PolicyError::Path { path: path.clone(), must });
    if source.path.as_os_str().as_encoded_bytes().contains(&0) {
        return must(&source.path, "free of NUL bytes");
    }
    match &source.beneath {
        None if !source.path.is_absolute() => must(&source.path, "absolute"),
        Some(dir) if !dir.is_absolute() => must(dir, "absolute"),
        Some(_) if source.path.is_absolute() => must(&source.path, "relative to its folder"),
        _ => Ok(()),
    }
}

fn check_limits(limits: &Limits) -> Result<(), PolicyError> {
    let least = [
        ("memory", limits.memory, MIN_MEMORY),
        ("the number of processes", limits.pids.into(), 1),
        ("processor time in thousandths", limits.milli_cpus.into(), 10),
        ("the file size", limits.file, 4096),
        ("the size of /tmp", limits.tmp, 4096),
    ];
    for (what, asked, least) in least {
        if asked < least {
            return Err(PolicyError::TooLow { what, asked, least });
        }
    }
    if limits.wall == Some(Duration::ZERO) {
        return Err(PolicyError::TooLow { what: "wall time in ms", asked: 0, least: 1 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> PolicyDraft {
        PolicyDraft::new(Profile::Compute, Source::named("/usr/bin/true"), &["x"])
    }

    #[test]
    fn a_whole_policy_survives_its_encoding() {
        let mut d = draft();
        d.env.push(("A".into(), "b c".into()));
        d.inputs.push(("model".into(), Source::beneath("/srv", "m/x")));
        d.outputs.push("y.bin".into());
        let policy = d.check().unwrap();
        assert_eq!(Policy::decode(&policy.encode()).unwrap(), policy);
        assert_eq!(Policy::decode(&policy.encode()[1..]).ok(), None);
    }

    #[test]
    fn each_rule_names_the_value() {
        type Spoil = fn(&mut PolicyDraft);
        let cases: [(Spoil, &str); 16] = [
            (|d| d.profile = Profile::General, "general"),
            (|d| d.argv.clear(), "no argument"),
            (|d| d.argv.push("a\0b".into()), "a\\0b"),
            (|d| d.argv.resize(2000, "x".into()), "2000 arguments, at most 1024"),
            (|d| d.argv.push("x".repeat(100_000)), "at most 98304"),
            (|d| d.env.push(("1A".into(), String::new())), "1A"),
            (|d| d.env.push(("LD_PRELOAD".into(), "/x.so".into())), "LD_PRELOAD=\"/x.so\""),
            (|d| d.env.push(("GCONV_PATH".into(), "/x".into())), "GCONV_PATH=\"/x\""),
            (|d| d.env.push(("BASH_ENV".into(), "/x".into())), "BASH_ENV=\"/x\""),
            (
                |d| d.env = vec![("A".into(), "".into()), ("A".into(), "".into())],
                "\"A\" is named twice",
            ),
            (|d| d.program.path = "true".into(), "absolute"),
            (|d| d.inputs.push(("../x".into(), Source::named("/x"))), "../x"),
            (|d| d.outputs.push("a/b".into()), "a/b"),
            (|d| d.inputs.push(("x".into(), Source::beneath("/srv", "/etc"))), "/etc"),
            (|d| d.limits.memory = 5, "memory is 5"),
            (|d| d.host_id = Some(HostId { uid: 0, gid: 5 }), "0:5"),
        ];
        for (spoil, expected) in cases {
            let mut d = draft();
            spoil(&mut d);
            let text = d.check().unwrap_err().to_string();
            assert!(text.contains(expected), "{text:?} does not name {expected:?}");
        }
    }
}

//! The job's cgroups: found, made, read and removed here; the jail's first process only joins them.
//! Used by [`super::Jail`].
//!
//! Memory needs a cgroup. The number of processes does not: RLIMIT_NPROC counts per user namespace.
//! A whole number of processors does not either: that is the affinity, which a job cannot change.
//! So version 1 costs one hierarchy, or two with a fractional processor limit; version 2 one group.

use leasehold_launcher::{Layer, LayerReport, LayerState, Limits};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

const PREFIX: &str = "leasehold-";
const PERIOD_US: u64 = 100_000;

/// Folders below which this process may have groups: of version 2, and by controller of version 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    v2: Option<PathBuf>,
    v1: BTreeMap<String, PathBuf>,
}

impl Hierarchies {
    /// Reads where this process stands.
    pub(super) fn find() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    /// `mountinfo`: proc(5) `/proc/self/mountinfo`; `own`: cgroups(7) `/proc/self/cgroup`.
    fn parse(mountinfo: &str, own: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let head: Vec<&str> = head.split(' ').collect();
            let tail: Vec<&str> = tail.split(' ').collect();
            let (&[_, _, _, root, point, ..], &[kind, _, options, ..]) = (&head[..], &tail[..])
            else {
                continue;
            };
            let own_path = |id: &str| {
                let line = own
                    .lines()
                    .find(|l| l.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == id)))?;
                let path = line.splitn(3, ':').nth(2)?;
                let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("");
                Some(Path::new(point).join(below.trim_start_matches('/')))
            };
            match kind {
                "cgroup2" => found.v2 = found.v2.or_else(|| own_path("")),
                "cgroup" => {
                    for controller in ["memory", "cpu"] {
                        if options.split(',').any(|o| o == controller) {
                            found
                                .v1
                                .extend(own_path(controller).map(|p| (controller.to_owned(), p)));
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        let parent = self.v2.as_deref().and_then(Path::parent);
        self.v2.as_deref().into_iter().chain(parent).chain(self.v1.values().map(PathBuf::as_path))
    }

    /// Removes groups whose maker is gone: of a node or a run that was killed.
    pub(super) fn sweep(&self) {
        for folder in self.folders() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if maker_of(&name).is_some_and(|(pid, start)| start_time(pid) != Some(start)) {
                    // Busy means that a process is still dying; the next sweep finds it.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

/// A group's name tells its maker, by process id and start time.
fn new_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let pid = std::process::id();
    let start = start_time(pid).unwrap_or(0);
    format!("{PREFIX}{pid}-{start}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn maker_of(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Field 22 of /proc/PID/stat, counted after the name, which may hold blanks.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The groups of one job. Dropping removes them.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    v2: Option<PathBuf>,
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

/// What the memory group counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) peak_memory: Option<u64>,
    pub(super) peak_pids: Option<u64>,
    pub(super) oom_kills: u64,
}

impl Cgroups {
    /// Makes what can be made for these limits, and says what holds.
    pub(super) fn make(at: &Hierarchies, limits: &Limits) -> (Self, Vec<LayerReport>) {
        let name = new_name();
        let mut groups = Self::default();
        let fractional = !limits.milli_cpus.is_multiple_of(1000);
        let mut reasons = Vec::new();
        let v2_folders = at.v2.iter().flat_map(|own| [Some(own.as_path()), own.parent()]).flatten();
        for folder in v2_folders {
            match make_v2(&folder.join(&name), limits) {
                Ok(path) => groups.v2 = Some(path),
                Err(e) => reasons.push(format!("{}: {e}", folder.display())),
            }
            if groups.v2.is_some() {
                break;
            }
        }
        let mut v1 = |controller: &str, settings: &[(&str, String)]| {
            let path = at.v1.get(controller)?.join(&name);
            make_group(&path, settings)
                .map_err(|e| reasons.push(format!("{}: {e}", path.display())))
                .ok()?;
            Some(path)
        };
        if groups.v2.is_none() {
            groups.memory = v1("memory", &v1_memory(limits));
            groups.cpu = fractional.then(|| v1("cpu", &v1_cpu(limits))).flatten();
        }
        let why = if reasons.is_empty() {
            "no cgroup of memory is mounted".to_owned()
        } else {
            reasons.join("; ")
        };
        let memory = match groups.v2.is_some() || groups.memory.is_some() {
            true => LayerState::Full,
            false => LayerState::Partial(format!(
                "a watchdog and RLIMIT_DATA stand in for a cgroup ({why})"
            )),
        };
        let cpu = match !fractional || groups.v2.is_some() || groups.cpu.is_some() {
            true => LayerState::Full,
            false => LayerState::Partial(format!("rounded up to whole processors ({why})")),
        };
        let reports = [(Layer::Memory, memory), (Layer::Cpu, cpu)];
        (groups, reports.map(|(name, state)| LayerReport { name, state }).into())
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.v2, &self.memory, &self.cpu].into_iter().flatten()
    }

    /// Whether memory is limited by a group, so that no watchdog is needed.
    pub(super) fn limit_memory(&self) -> bool {
        self.v2.is_some() || self.memory.is_some()
    }

    /// The files by which a single-threaded process joins, opened with the caller's rights. Version 1 by
    /// `tasks`: there a thread that moves itself takes no lock of the whole machine, while every write to
    /// `cgroup.procs` waits for an RCU grace period, which is milliseconds.
    pub(super) fn doors(&self) -> io::Result<Vec<File>> {
        let v2 = self.v2.iter().map(|p| p.join("cgroup.procs"));
        let v1 = [&self.memory, &self.cpu].into_iter().flatten().map(|p| p.join("tasks"));
        v2.chain(v1).map(|door| OpenOptions::new().write(true).open(door)).collect()
    }

    /// The files by which the same process leaves for the parents: of all groups or none. Version 2 has none, since
    /// leaving waits for a grace period there and the process's end is sooner.
    pub(super) fn exits(&self) -> Vec<File> {
        let parents = [&self.memory, &self.cpu].into_iter().flatten().filter_map(|p| p.parent());
        let open = |p: &Path| OpenOptions::new().write(true).open(p.join("tasks"));
        parents.map(open).collect::<io::Result<_>>().unwrap_or_default()
    }

    /// What the groups have counted so far.
    pub(super) fn counted(&self) -> Counted {
        let read = |group: &Option<PathBuf>, file: &str| {
            fs::read_to_string(group.as_ref()?.join(file)).ok()
        };
        let number = |group, file| read(group, file)?.trim().parse().ok();
        let kills = |group, file| {
            let text = read(group, file)?;
            text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.parse().ok())
        };
        Counted {
            peak_memory: number(&self.v2, "memory.peak")
                .or_else(|| number(&self.memory, "memory.max_usage_in_bytes")),
            peak_pids: number(&self.v2, "pids.peak"),
            oom_kills: kills(&self.v2, "memory.events")
                .or_else(|| kills(&self.memory, "memory.oom_control"))
                .unwrap_or(0),
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for path in self.paths() {
            // Killed processes leave their group a moment after their parent has reaped them.
            for _ in 0..100 {
                match fs::remove_dir(path) {
                    Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    _ => break,
                }
            }
        }
    }
}

fn make_v2(path: &Path, limits: &Limits) -> io::Result<PathBuf> {
    let parent = path.parent().unwrap_or(path);
    // Refused where the controllers are already on or not ours to switch; the check below decides.
    let _ = set(&parent.join("cgroup.subtree_control"), "+memory +pids +cpu");
    let on = fs::read_to_string(parent.join("cgroup.subtree_control"))?;
    if !["memory", "pids"].iter().all(|c| on.split_whitespace().any(|o| o == *c)) {
        return Err(io::Error::other("the controllers memory and pids are not delegated"));
    }
    make_group(path, &v2_settings(limits))?;
    Ok(path.to_owned())
}

/// Never makes a file: above a cgroup's mount lies an ordinary folder.
fn set(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

fn make_group(path: &Path, settings: &[(&str, String)]) -> io::Result<()> {
    fs::create_dir(path)?;
    for (file, value) in settings {
        let optional = file.starts_with('?');
        let target = path.join(file.trim_start_matches('?'));
        if let Err(e) = set(&target, value)
            && !optional
        {
            let _ = fs::remove_dir(path);
            return Err(e);
        }
    }
    Ok(())
}

// A question mark before a file's name: not every kernel has it.

fn v2_settings(limits: &Limits) -> Vec<(&'static str, String)> {
    vec![
        ("memory.max", limits.memory.to_string()),
        ("?memory.swap.max", "0".to_owned()),
        ("?memory.oom.group", "1".to_owned()),
        ("pids.max", (u64::from(limits.pids) + 1).to_string()),
        ("?cpu.max", format!("{} {PERIOD_US}", quota_us(limits))),
    ]
}

fn v1_memory(limits: &Limits) -> Vec<(&'static str, String)> {
    vec![
        ("memory.limit_in_bytes", limits.memory.to_string()),
        ("?memory.memsw.limit_in_bytes", limits.memory.to_string()),
    ]
}

fn v1_cpu(limits: &Limits) -> Vec<(&'static str, String)> {
    vec![
        ("cpu.cfs_period_us", PERIOD_US.to_string()),
        ("cpu.cfs_quota_us", quota_us(limits).to_string()),
    ]
}

fn quota_us(limits: &Limits) -> u64 {
    u64::from(limits.milli_cpus) * PERIOD_US / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
33 30 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
36 30 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
42 30 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_and_unified_hosts_are_read() {
        let own = "4:memory:/a/b\n1:cpu:/\n0::/\n";
        let found = Hierarchies::parse(HYBRID, own);
        assert_eq!(found.v1["memory"], Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(found.v1["cpu"], Path::new("/sys/fs/cgroup/cpu/"));
        assert_eq!(found.v2.unwrap(), Path::new("/sys/fs/cgroup/unified/"));

        let unified = "30 20 0:26 /x /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchies::parse(unified, "0::/x/user.slice/run-1.scope\n");
        assert_eq!(found.v2.unwrap(), Path::new("/sys/fs/cgroup/user.slice/run-1.scope"));
        assert!(found.v1.is_empty());
        assert_eq!(Hierarchies::parse("", ""), Hierarchies::default());
    }

    #[test]
    fn settings_hold_the_limits() {
        let limits = Limits { milli_cpus: 1500, memory: 1 << 20, pids: 7, ..Limits::default() };
        let v2 = v2_settings(&limits);
        assert!(v2.contains(&("memory.max", "1048576".into())), "{v2:?}");
        assert!(v2.contains(&("pids.max", "8".into())), "{v2:?}");
        assert!(v2.contains(&("?cpu.max", "150000 100000".into())), "{v2:?}");
        assert!(v1_cpu(&limits).contains(&("cpu.cfs_quota_us", "150000".into())));
    }

    #[test]
    fn a_name_tells_its_maker() {
        let (pid, start) = maker_of(&new_name()).unwrap();
        assert_eq!((pid, Some(start)), (std::process::id(), start_time(pid)));
        assert_eq!(maker_of("leasehold-x-1-2"), None);
        assert_eq!(maker_of("user.slice"), None);
    }
}

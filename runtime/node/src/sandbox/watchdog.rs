//! The stand-in for a memory cgroup: adds up what the processes below a launcher hold. A job can
//! outgrow its limit for one period; files of tmpfs that nobody has mapped are bounded by the size
//! of their file system instead.

use std::{fs, time::Duration};

/// Time between two looks.
pub(super) const PERIOD: Duration = Duration::from_millis(20);

/// Bytes of anonymous and shared memory held by all descendants of `launcher`.
pub(super) fn resident_bytes(launcher: u32) -> u64 {
    let mut found = vec![launcher];
    let mut next = 0;
    let mut total = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        }
        if pid != launcher {
            total += fs::read_to_string(format!("/proc/{pid}/status")).map_or(0, |s| held(&s));
        }
    }
    total
}

/// RssAnon and RssShmem of a `/proc/PID/status`, in bytes.
fn held(status: &str) -> u64 {
    let kib = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    (kib("RssAnon:").unwrap_or(0) + kib("RssShmem:").unwrap_or(0)) * 1024
}

#[cfg(test)]
mod tests {
    #[test]
    fn status_is_read() {
        let status = "Name:\tx\nRssAnon:\t     100 kB\nRssFile:\t  7 kB\nRssShmem:\t       3 kB\n";
        assert_eq!(super::held(status), 103 * 1024);
        assert_eq!(super::held(""), 0);
    }
}

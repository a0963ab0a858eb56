//! The jail's file tree: which places of the host it shows, and the folders, devices, files and
//! /proc around them. Steps `root-sources`, `sources` to `pivot`.

use crate::{
    inner::Inner,
    sys,
    trace::{During, Fault},
};
use leasehold_launcher::{Layer, Policy, Profile, Source, Step};
use std::{
    fs,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};

/// Where the new root is put together. It hides what the host has there, so all sources are cloned
/// before.
const BUILD_SITE: &str = "/tmp";
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// A place of the host, cloned with its attributes set, and where it goes.
pub(crate) struct Tree {
    target: String,
    clone: Clone,
}

enum Clone {
    Folder(OwnedFd),
    File(OwnedFd),
    Symlink(PathBuf),
}

/// Everything that comes from the host.
pub(crate) struct Sources {
    pub(crate) trees: Vec<Tree>,
    /// The program's path inside the jail.
    pub(crate) program: String,
}

/// Clones every place of the host that the policy's jail shows.
pub(crate) fn clone_sources(policy: &Policy) -> Result<Sources, Fault> {
    let without = &policy.probe().without;
    let attributes = match without.contains(&Layer::ReadOnly) {
        true => 0,
        false => sys::RDONLY | sys::NOSUID | sys::NODEV,
    };
    let mut trees = Vec::new();
    for name in ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32"] {
        trees.extend(system_folder(name, attributes)?);
    }
    if policy.profile == Profile::Python {
        trees.extend(system_folder("/etc/alternatives", attributes)?);
    }
    if without.contains(&Layer::Root) {
        for entry in fs::read_dir("/").during("listing /")?.flatten() {
            let name = entry.path().to_string_lossy().into_owned();
            let made = ["/proc", "/dev", "/tmp", "/in", "/out", "/app"].contains(&name.as_str());
            if !made && entry.path().is_dir() && !trees.iter().any(|t| t.target == name) {
                trees.extend(system_folder(&name, 0)?);
            }
        }
    }
    if without.contains(&Layer::Dev) {
        trees.extend(system_folder("/dev", 0)?);
    } else {
        for name in DEVICES {
            let path = format!("/dev/{name}");
            let place = sys::open_place(None, &path).during(&path)?;
            trees.push(clone_place(path, place, attributes & !sys::NODEV | sys::NOEXEC)?);
        }
    }
    let (program, tree) = program(policy, attributes)?;
    trees.extend(tree);
    for (name, source) in &policy.inputs {
        let place = open_source(source)?;
        trees.push(clone_place(format!("/in/{name}"), place, attributes)?);
    }
    Ok(Sources { trees, program })
}

/// A folder of the system, shown at its own path; a symlink stays one.
fn system_folder(path: &str, attributes: u64) -> Result<Option<Tree>, Fault> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(None) };
    if meta.is_symlink() {
        let link = fs::read_link(path).during(path)?;
        return Ok(Some(Tree { target: path.to_owned(), clone: Clone::Symlink(link) }));
    }
    let place = sys::open_place(None, path).during(path)?;
    clone_place(path.to_owned(), place, attributes).map(Some)
}

fn clone_place(target: String, place: OwnedFd, attributes: u64) -> Result<Tree, Fault> {
    let place = fs::File::from(place);
    let meta = place.metadata().during(&target)?;
    let device = target.starts_with("/dev/");
    if !(meta.is_dir() || meta.is_file() || device) {
        return Err(Fault::new(&format!("{target}: the source is neither a file nor a folder")));
    }
    let tree = sys::clone_tree(place.as_fd()).during(&format!("cloning the mount of {target}"))?;
    if attributes != 0 {
        sys::set_tree_attributes(tree.as_fd(), attributes)
            .during(&format!("setting the mount attributes of {target}"))?;
    }
    let clone = if meta.is_dir() { Clone::Folder(tree) } else { Clone::File(tree) };
    Ok(Tree { target, clone })
}

fn open_source(source: &Source) -> Result<OwnedFd, Fault> {
    let path = source.path.to_string_lossy();
    let shown = source.beneath.as_deref().unwrap_or(Path::new("")).join(&source.path);
    let what = format!("opening {}", shown.display());
    let Some(dir) = &source.beneath else {
        return sys::open_place(None, &path).during(&what);
    };
    let dir = sys::open_place(None, &dir.to_string_lossy()).during(&what)?;
    sys::open_place(Some(dir.as_fd()), &path).during(&what)
}

/// Where the program is found inside the jail, and its own mount if it does not lie in a folder
/// that the jail has anyway.
fn program(policy: &Policy, attributes: u64) -> Result<(String, Option<Tree>), Fault> {
    let place = open_source(&policy.program).map_err(|f| f.at(Step::Exec))?;
    let real = fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd()))
        .during("naming the program")?;
    let path = real.to_string_lossy().into_owned();
    if path.starts_with("/usr/") {
        return Ok((path, None));
    }
    if policy.profile == Profile::Python {
        // An interpreter elsewhere: its library lies beside its folder bin.
        let prefix = real.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let shown = prefix.to_string_lossy().into_owned();
        if prefix.components().count() < 3 {
            return Err(Fault::new(&format!("{shown} is no folder of one Python alone")));
        }
        let place = sys::open_place(None, &shown).during(&shown)?;
        return Ok((path, Some(clone_place(shown, place, attributes)?)));
    }
    let name = policy.program.path.file_name().unwrap_or_default().to_string_lossy();
    let in_jail = format!("/app/{name}");
    Ok((in_jail.clone(), Some(clone_place(in_jail, place, attributes)?)))
}

pub(crate) fn make_root(inner: &mut Inner) -> Result<(), Fault> {
    sys::mount_tmpfs(BUILD_SITE, "mode=0755,size=4m,nr_inodes=1k")
        .during("mounting the new root")?;
    std::env::set_current_dir(BUILD_SITE).during("entering the new root")?;
    for name in ["proc", "tmp", "dev", "etc"] {
        fs::create_dir(name).during(name)?;
    }
    if inner.wants(Layer::Root) {
        inner.full(Layer::Root);
    }
    Ok(())
}

pub(crate) fn attach_sources(inner: &mut Inner, trees: Vec<Tree>) -> Result<(), Fault> {
    for Tree { target, clone } in trees {
        let path = target.trim_start_matches('/');
        if let Some(parent) = Path::new(path).parent() {
            fs::create_dir_all(parent).during(&target)?;
        }
        let what = format!("attaching {target}");
        match clone {
            Clone::Symlink(link) => symlink(link, path).during(&what)?,
            Clone::Folder(tree) => {
                fs::create_dir_all(path).during(&what)?;
                sys::attach_tree(tree.as_fd(), path).during(&what)?;
            }
            Clone::File(tree) => {
                fs::File::create(path).during(&what)?;
                sys::attach_tree(tree.as_fd(), path).during(&what)?;
            }
        }
    }
    if inner.wants(Layer::ReadOnly) {
        inner.full(Layer::ReadOnly);
    }
    Ok(())
}

pub(crate) fn make_dev(inner: &mut Inner) -> Result<(), Fault> {
    if !inner.wants(Layer::Dev) {
        return Ok(());
    }
    fs::create_dir("dev/shm").during("dev/shm")?;
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{target}"), format!("dev/{name}")).during(name)?;
    }
    inner.full(Layer::Dev);
    Ok(())
}

pub(crate) fn make_scratch(inner: &mut Inner) -> Result<(), Fault> {
    let size = inner.policy().limits.tmp;
    // An inode of tmpfs costs about 1 KiB of kernel memory.
    let options = format!("mode=0700,size={size},nr_inodes={}", (size / 4096).clamp(64, 1 << 20));
    let mount = |path: &str| sys::mount_tmpfs(path, &options).during(path);
    mount("tmp")?;
    mount("dev/shm")?;
    if !inner.policy().outputs.is_empty() {
        fs::create_dir("out").during("out")?;
        mount("out")?;
    }
    Ok(())
}

/// The few files that C libraries, shells and Python look for; none of the host's is shown.
pub(crate) fn make_etc(inner: &mut Inner) -> Result<(), Fault> {
    if inner.policy().probe().without.contains(&Layer::Root) {
        return Ok(());
    }
    let files = [
        ("etc/passwd", "root:x:0:0::/:/bin/false\njob:x:1000:1000::/tmp:/bin/sh\n"),
        ("etc/group", "root:x:0:\njob:x:1000:\n"),
        ("etc/hosts", "127.0.0.1 localhost leasehold\n"),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ];
    for (path, text) in files {
        fs::write(path, text).during(path)?;
    }
    // Where the libraries lie: names of files under /usr, nothing else. Not every host has it.
    let _ = fs::copy("/etc/ld.so.cache", "etc/ld.so.cache");
    Ok(())
}

pub(crate) fn make_proc(inner: &mut Inner) -> Result<(), Fault> {
    if inner.wants(Layer::Proc) {
        // ptraceable hides this process too, whose executable is the launcher.
        sys::mount_proc("proc", "hidepid=ptraceable,subset=pid").during("mounting /proc")?;
        inner.full(Layer::Proc);
    } else {
        sys::mount_proc("proc", "").during("mounting /proc")?;
    }
    Ok(())
}

pub(crate) fn enter_root(inner: &mut Inner) -> Result<(), Fault> {
    sys::pivot_here().during("changing the root")?;
    std::env::set_current_dir("/").during("entering /")?;
    if !inner.policy().probe().without.contains(&Layer::ReadOnly) {
        sys::seal_root().during("making the root read-only")?;
    }
    std::env::set_current_dir("/tmp").during("entering /tmp")
}

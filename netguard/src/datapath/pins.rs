//! Where an instance is in the kernel, so that enforcement outlives the daemon: its pins, and the namespace that it has
//! filters in, if its TC programs hang on those:
//!
//! ```text
//! /sys/fs/bpf/netguard/<instance>/links/<interface>:<program>
//!                                 programs/<program>
//!                                 maps-v<layout version>/<MAP>
//!                                 netns -> net:[<number>]
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{Ebpf, maps::MapData};
use netguard_common::{Hook, maps::LAYOUT_VERSION};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{
    Error,
    filter::{self, Filter},
    maps::PolicyMaps,
    namespace,
};
use crate::instance::Instance;

const BPFFS: &str = "/sys/fs/bpf";
const ROOT: &str = "/sys/fs/bpf/netguard";

/// The pins of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinDirectory {
    instance: Instance,
    root: PathBuf,
}

impl PinDirectory {
    /// The directory of the instance; nothing is created yet.
    #[must_use]
    pub fn of(instance: &Instance) -> Self {
        Self { instance: instance.clone(), root: Path::new(ROOT).join(instance.as_str()) }
    }

    /// All instances that have pins.
    #[must_use]
    pub fn instances() -> Vec<Instance> {
        let Ok(entries) = fs::read_dir(ROOT) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut names: Vec<_> = names.filter(|it| Self::of(it).has_pins()).collect();
        names.sort();
        names
    }

    /// True if something is pinned there: a unit makes the directory before there is anything.
    #[must_use]
    pub fn has_pins(&self) -> bool {
        fs::read_dir(&self.root).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Where the map of that name is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where the link of a program on an interface is pinned.
    #[must_use]
    pub fn link(&self, interface: &str, hook: Hook) -> PathBuf {
        // bpffs takes no dots in names, Linux takes no colons in those of interfaces.
        self.links().join(format!("{}:{}", interface.replace('.', ":"), hook.program()))
    }

    /// Where the program of a hook is pinned.
    #[must_use]
    pub fn program(&self, hook: Hook) -> PathBuf {
        self.programs().join(hook.program())
    }

    /// The pinned links, as (interface, hook).
    pub(super) fn pinned_links(&self) -> Vec<(String, Hook)> {
        let Ok(entries) = fs::read_dir(self.links()) else {
            return Vec::new();
        };
        let mut links: Vec<_> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                let (interface, program) = name.rsplit_once(':')?;
                let hook = Hook::ALL.into_iter().find(|hook| hook.program() == program)?;
                Some((interface.replace(':', "."), hook))
            })
            .collect();
        links.sort();
        links
    }

    /// The instance, as its filters name it.
    pub(super) fn instance(&self) -> &str {
        self.instance.as_str()
    }

    /// Remembers that the instance has filters in this thread's namespace. Those in another one, where it was
    /// before, it has no more.
    pub(super) fn remember_namespace(&self) -> Result<(), Error> {
        let path = self.namespace();
        let failed = |error| Error::pin("make", &path, error);
        let own = namespace::own().map_err(failed)?;
        if self.namespace_of_filters().as_ref() == Some(&own) {
            return Ok(());
        }
        self.remove_filters()?;
        std::os::unix::fs::symlink(own, &path).map_err(failed)
    }

    /// The namespace that the instance has filters in, if it has any.
    pub(super) fn namespace_of_filters(&self) -> Option<String> {
        Some(fs::read_link(self.namespace()).ok()?.to_string_lossy().into_owned())
    }

    /// The filters that the instance has, also from another namespace.
    pub(super) fn filters(&self) -> Result<Vec<Filter>, Error> {
        let Some(namespace) = self.namespace_of_filters() else { return Ok(Vec::new()) };
        let found = namespace::within(&namespace, || filter::all(self.instance()));
        Ok(found.map_err(|error| Error::filters(namespace, error))?.unwrap_or_default())
    }

    /// The number of the program that a filter of the instance holds on an interface of this thread's namespace.
    pub(super) fn filter_on(&self, ifindex: u32, hook: Hook) -> Result<Option<u32>, Error> {
        let Some(namespace) = self.namespace_of_filters().filter(|_| hook != Hook::Xdp) else {
            return Ok(None);
        };
        let program = || match namespace::own()? == namespace {
            true => filter::program(self.instance(), ifindex, hook),
            false => Ok(None),
        };
        program().map_err(|error| Error::filters(namespace.clone(), error))
    }

    /// Removes every filter of the instance, also from another namespace.
    fn remove_filters(&self) -> Result<(), Error> {
        let Some(namespace) = self.namespace_of_filters() else { return Ok(()) };
        // Where the namespace is gone, so are they.
        namespace::within(&namespace, || filter::detach_all(self.instance()))
            .map_err(|error| Error::filters(namespace, error))?;
        remove_pin(&self.namespace())
    }

    /// Removes every filter and every pin: programs detach, maps are freed. Enforcement ends.
    ///
    /// # Errors
    ///
    /// The directory cannot be removed. One that does not exist is fine.
    pub fn remove(&self) -> Result<(), Error> {
        self.remove_filters()?;
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::pin("remove", &self.root, error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the pins if no program is held anywhere: after a start that failed.
    pub(super) fn remove_if_idle(&self) {
        let has_filters = self.filters().is_ok_and(|filters| !filters.is_empty());
        if self.pinned_links().is_empty() && !has_filters {
            // What stays behind on failure are empty maps, which the next start adopts.
            let _ = self.remove();
        }
    }

    pub(super) fn create(&self) -> Result<(), Error> {
        for directory in [self.maps(), self.links(), self.programs()] {
            fs::create_dir_all(&directory)
                .map_err(|error| Error::pin("create", &directory, error))?;
        }
        Ok(())
    }

    /// Pins a map in place of an earlier one's.
    pub(super) fn pin_map(&self, name: &str, map: &MapData) -> Result<(), Error> {
        let path = self.map(name);
        remove_pin(&path)?;
        map.pin(&path).map_err(|error| Error::pin("pin", &path, error))
    }

    /// Pins the policy maps and programs of this load in place of an earlier one's.
    pub(super) fn pin_policy(&self, ebpf: &mut Ebpf, maps: &PolicyMaps) -> Result<(), Error> {
        for (name, map) in maps.each() {
            self.pin_map(name, map)?;
        }
        for hook in Hook::ALL {
            let path = self.program(hook);
            remove_pin(&path)?;
            let program = ebpf.program_mut(hook.program()).ok_or(Error::Object(hook.program()))?;
            program.pin(&path).map_err(|error| Error::pin("pin", &path, error))?;
        }
        Ok(())
    }

    fn maps(&self) -> PathBuf {
        self.root.join(format!("maps-v{LAYOUT_VERSION}"))
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    fn namespace(&self) -> PathBuf {
        self.root.join("netns")
    }

    fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }
}

/// Removes a pin; what it held lives on only as long as something else holds it.
pub(super) fn remove_pin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::pin("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Makes sure that a BPF file system is mounted where an instance's pins go; mounts one if there is none.
///
/// # Errors
///
/// There is none and it cannot be mounted.
pub fn ensure_bpffs(instance: &Instance) -> Result<(), Error> {
    let is_mounted =
        |at: &Path| statfs(at).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    // A unit may see of that file system the instance's own pins and nothing else.
    if is_mounted(Path::new(BPFFS)) || is_mounted(PinDirectory::of(instance).path()) {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .map_err(|error| Error::NoBpffs { path: BPFFS.into(), source: error.into() })
}

//! What maps take of the kernel's memory, and this process of the machine's.

use std::{collections::BTreeMap, fs};

/// Bytes that the kernel charges for the maps that this process has (proc_pid_fdinfo(5)), each once. Maps of that type alone, if one
/// is given: `enum bpf_map_type` of include/uapi/linux/bpf.h.
pub fn of_maps(map_type: Option<u32>) -> f64 {
    let entries = fs::read_dir("/proc/self/fdinfo").expect("this process's descriptors").flatten();
    let mut maps = BTreeMap::new();
    for text in entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()) {
        let of = |key: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().parse().ok()
        };
        let is_wanted = map_type.is_none_or(|it| of("map_type:") == Some(it.into()));
        if let (Some(id), Some(bytes), true) = (of("map_id:"), of("memlock:"), is_wanted) {
            maps.insert(id, bytes);
        }
    }
    maps.values().sum::<u64>() as f64
}

/// In MB.
pub const MB: f64 = 1e6;

/// Bytes of this process that are in memory (proc_pid_statm(5)).
pub fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").expect("its memory");
    let pages: f64 = text.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a number");
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).expect("a page's size");
    pages * page.expect("a page's size") as f64
}

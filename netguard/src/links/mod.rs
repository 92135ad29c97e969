//! The host's interfaces and addresses, over rtnetlink: what there is, the news that it changed, and
//! the links that netguard makes itself.

mod details;
mod error;
mod host;
mod link;
mod make;
mod port;
mod removal;
mod steps;
mod tap;
mod watcher;

pub use details::{Details, Route, Table};
pub use error::Error;
pub use host::Host;
pub use make::{Made, Wanted, make, remove_owned, remove_stale, take_back};
pub use port::isolate;
pub use tap::open as open_tap;
pub use watcher::{Changed, Watcher};

/// True if netguard may make an interface of that name: Linux's rule (dev_valid_name in
/// net/core/dev.c), less `%`, which makes a name a pattern, and less what names all interfaces
/// under `/proc/sys/net`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let bad = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '%' | '\0');
    (1..libc::IFNAMSIZ).contains(&name.len())
        && !name.contains(bad)
        && !matches!(name, "." | ".." | "all" | "default")
}

/// A setting of this network namespace, by its name for `sysctl`: `net.ipv4.ip_forward`. `None` if the
/// kernel has no such setting.
#[must_use]
pub fn setting(key: &str) -> Option<String> {
    let value = std::fs::read_to_string(format!("/proc/sys/{}", key.replace('.', "/"))).ok()?;
    Some(value.trim().to_owned())
}

//! netguard as a library: what the binary and the tests are made of.
//!
//! Data flows one way: `config` (the file) -> `policy::Policy` (its meaning) -> `policy::Plan` (the
//! bytes of the maps) -> `datapath` (the kernel) -> `drops` and `netguard_dns` (what happened) -> `journal`.

pub mod changes;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod doctor;
pub mod drops;
pub mod events;
pub mod explain;
pub mod feed;
pub mod firewall;
pub mod instance;
pub mod journal;
pub mod lab;
pub mod links;
pub mod listing;
pub mod metrics;
mod netlink;
mod paint;
pub mod pinned;
pub mod policy;
pub mod queries;
pub mod sandbox;
mod socket_file;
pub mod status;
pub mod suggest;
pub mod top;
pub mod verify;

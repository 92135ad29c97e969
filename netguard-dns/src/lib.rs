//! netguard's resolver: what a slot may know of names, answered on the slot's own gateway.
//!
//! A guest's bytes are read ([`query`]), decided by the slot's [`Allowlist`], and answered from the [`Cache`] or by an
//! upstream ([`forward`]), which hears nothing but name and type. Addresses are in the kernel before the guest has them
//! ([`Pins`]). Knows neither the policy nor the kernel beyond what is handed to it.

mod allowlist;
mod answer;
mod budget;
mod cache;
mod clock;
pub mod forward;
mod framing;
mod learnt;
mod name;
mod pins;
pub mod query;
mod question;
mod record;
pub mod reply;
mod resolver;
mod rules;
mod server;
mod told;
mod wire_name;

pub use allowlist::{Allowlist, BadEntry, Entry, Kind, Listed, NameSet, Rule, Suffixes, TooMany};
pub use answer::{Answer, Blocked};
pub use budget::{Budget, Exhausted, Meters, QueryLimits};
pub use cache::{Asked, Cache, Kept};
pub use clock::Moment;
pub use framing::{read_framed, write_framed};
pub use name::{BadName, DomainName};
pub use pins::{BadPorts, GRACE, Pin, PinError, PinMap, Pins, Ports};
pub use question::Question;
pub use record::{Decision, Denial, Journal, QueryLog, QueryRecord};
pub use reply::Transport;
pub use resolver::{Denied, Judged, Resolver};
pub use rules::{DEFAULT_NAME_MAX, DEFAULT_TYPES, Rules, SlotRules};
pub use server::{Endpoint, Server, SlotServer, Sockets, threads_of_slot};
pub use wire_name::{NAME_MAX, WireName, name_text, write_name};

//! Orders to a running daemon: HTTP with JSON on a Unix socket of the instance's run directory. Who may write to the
//! socket may give them; nothing listens on the network.
//!
//! | request | what it does |
//! |---|---|
//! | `POST /v1/reload` with `{"confirm_seconds": 60}` | reads the configuration again and puts it in force; back again without confirmation in time |
//! | `POST /v1/confirm` | what the latest reload has put in force stays |
//! | `GET /v1/diff` | what a reload would change |
//! | `GET /v1/status` | what the kernel holds and counts, and how the daemon is |
//! | `GET /v1/drops?last=N&follow=true` | the latest drops, and those that come; by `slot`, `reason`, `runtime` and `id` |
//! | `GET /v1/dns?last=N&follow=true` | the same of queries; by `slot`, `runtime`, `name`, `type`, `rcode` and `side` |
//! | `GET /v1/events?last=N&follow=true` | what has happened to netguard itself, and what happens; by `slot` and `event` |
//! | `GET /metrics` | the numbers of the status and of the resolver, as Prometheus reads them |
//! | `GET /v1/pins?slot=NAME` | every pin, or those of one slot |
//! | `GET /v1/slots` | every slot, and what was ordered about it |
//! | `POST /v1/slots` with the keys of a `[[slot]]` entry | makes a slot beside those of the file |
//! | `DELETE /v1/slots/NAME` | removes one that was made so |
//! | `GET` and `PUT /v1/slots/NAME/state` | all that there is of a slot, as one document, and has another slot take it over |
//! | `PUT` and `DELETE /v1/slots/NAME/lock` | takes the slot's network away, established flows included, and gives it back |
//! | `POST /v1/slots/NAME/allow` and `/deny` with `{"what": "example.com", "seconds": 600}` | the latest word about a name or prefix, whatever the file says; for good without seconds |
//! | `GET /v1/slots/NAME/names/DOMAIN` | what a query of the slot for that name would get, and why |
//! | `GET /v1/slots/NAME/because?direction=egress&frame=HEX` | which lines of the configuration decide about a packet |
//! | `POST /v1/slots/NAME/forget` with `{"what": "example.com"}` | takes such a word back |
//!
//! `docs/openapi.yaml` has all of it for programs. What is wrong is answered with `{"error": "..."}`.

mod client;
mod daemon;
mod escape;
mod metrics;
mod names;
mod routes;
mod server;
mod state;
mod stream;
mod weigh;

pub use client::{
    Error, add_slot, because, confirm, diff, export, follow, forget, import, judge, lock, reload,
    remove_slot, say, slots, status, suggest,
};
pub use daemon::{Daemon, Feeds};
pub use escape::encode;
pub use names::Names;
pub use server::{Server, Socket, serve};

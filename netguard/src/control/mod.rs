//! Orders to a running daemon: HTTP with JSON on a Unix socket of the instance's run directory. Who may write to the
//! socket may give them; nothing listens on the network.
//!
//! | request | what it does |
//! |---|---|
//! | `POST /v1/reload` with `{"confirm_seconds": 60}` | reads the configuration again and puts it in force; back again without confirmation in time |
//! | `POST /v1/confirm` | what the latest reload has put in force stays |
//! | `GET /v1/diff` | what a reload would change |
//! | `GET /v1/pins?slot=NAME` | every pin, or those of one slot |
//! | `POST /v1/slots/NAME/denials` with `{"name": "example.com", "seconds": 600}` | denies a name and all below it, for good without seconds |
//! | `DELETE /v1/slots/NAME/denials/example.com` | takes that back |
//!
//! What is wrong is answered with `{"error": "..."}`.

mod client;
mod routes;
mod server;

pub use client::{Error, allow, confirm, deny, diff, reload};
pub use server::{Server, Socket, serve};

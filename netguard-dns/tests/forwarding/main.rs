//! The forwarder against upstreams: those that answer as a test wants, lies included, and a real one.

mod dot;
mod fake;
mod forward;
mod lies;
mod upstreams;

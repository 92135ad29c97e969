//! What an upstream said, after it was scrubbed: bytes that are patched for each guest that asks.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// The answer to a [`crate::Question`], whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Header, question, answer and authority; neither OPT nor additional records. The id is 0, the flags are QR,
    /// RA and the lower four bits of the code; names are in lower case and compressed towards the question.
    pub message: Box<[u8]>,
    /// Where the time-to-live fields stand in [`Self::message`].
    pub ttl_offsets: Box<[u16]>,
    /// How long it may be given, from its arrival on: the least of its times-to-live, clamped.
    pub life: Duration,
    /// The code, with the bits that only OPT can carry (RFC 6891 section 6.1.3).
    pub rcode: u16,
    /// The upstream has validated it (RFC 4035 section 3.2.3).
    pub authentic: bool,
    /// Every address in it, each once: of A, AAAA and the hints of HTTPS and SVCB.
    pub addresses: Box<[IpAddr]>,
    /// Who answered; none if nobody did, and the answer is netguard's own SERVFAIL.
    pub upstream: Option<SocketAddr>,
    /// Why netguard answers in the upstream's stead, if it does.
    pub blocked: Option<Blocked>,
}

/// Why an upstream's answer was dropped whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// A public name that leads to an address which is not public: DNS rebinding.
    Rebinding(IpAddr),
}

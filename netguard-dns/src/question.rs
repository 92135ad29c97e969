//! What leaves the host of a guest's query, and by what answers are kept: name, type, DO and CD.

/// A question as it is asked of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// In wire form and lower case, with the final zero.
    pub name: Box<[u8]>,
    /// The type's number.
    pub record_type: u16,
    /// DNSSEC records are wanted (RFC 3225).
    pub dnssec_ok: bool,
    /// The asker validates himself (RFC 4035 section 3.2.2).
    pub checking_disabled: bool,
}

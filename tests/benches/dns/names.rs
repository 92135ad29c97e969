//! The policy that every server gets, and the queries that are put to them, ready to be sent.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::load::{IN_FLIGHT, SOCKETS};
pub use super::words::{label, policy};
use hickory_proto::{
    op::{Edns, Message, Query as Question},
    rr::{Name, RecordType},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// How many names that are not allowed are asked for.
const DENIED: usize = 10_000;
/// What answers to UDP may hold, as the resolvers agreed to (DNS flag day 2020).
pub const PAYLOAD: u16 = 1232;
/// The load of many sockets.
pub const SCATTERED: &str = "scattered";

/// The repository's `target`, where xtask has put the peers.
pub fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// A query as it is sent, but for its id, and what its answer must be.
pub struct Query {
    /// With a recursion-desired flag and an OPT record, as stub resolvers send it.
    pub wire: Box<[u8]>,
    /// How long header and question are: they come back as they went.
    pub question_end: usize,
    /// If the policy has the name.
    pub allowed: bool,
}

impl Query {
    /// For the IPv4 address of a name.
    pub fn new(name: &str, allowed: bool) -> Self {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        let name = Name::from_ascii(format!("{name}.")).expect("a name");
        let question_end = 12 + name.iter().map(|label| label.len() + 1).sum::<usize>() + 1 + 4;
        message.add_query(Question::query(name, RecordType::A));
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        message.set_edns(edns);
        Self { wire: message.to_vec().expect("it fits").into(), question_end, allowed }
    }

    /// True if the bytes, whose id has been compared, are the answer that the policy demands.
    pub fn is_answered_by(&self, bytes: &[u8]) -> bool {
        const NXDOMAIN: u8 = 3;
        let Some((header, rest)) = bytes.split_at_checked(12) else { return false };
        let (is_answer, rcode) = (header[2] & 0x80 != 0, header[3] & 0x0f);
        let answers = u16::from_be_bytes([header[6], header[7]]);
        let as_asked = rest.starts_with(&self.wire[12..self.question_end]);
        let as_decided = if self.allowed {
            rcode == 0 && answers > 0
        } else {
            rcode == NXDOMAIN && answers == 0
        };
        is_answer && as_asked && as_decided
    }
}

/// One kind of load: its queries are put in random order, each as often as any other.
pub struct Load {
    /// "denied"
    pub name: &'static str,
    /// For the heading of its table.
    pub about: &'static str,
    /// What is asked, in order of length.
    pub queries: Vec<Query>,
    /// From how many sockets.
    pub sockets: usize,
}

impl Load {
    /// Names that no list has, the policy's own, both in equal shares; and the first again, each from a socket that
    /// asks nothing else meanwhile, as the programs in a guest do.
    pub fn all(policy: &[String]) -> [Self; 4] {
        let denied = not_in(policy);
        let no = || denied.iter().map(|name| Query::new(name, false));
        let yes = || policy.iter().map(|name| Query::new(name, true));
        let load = |name, about, sockets, mut queries: Vec<Query>| {
            queries.sort_by_key(|query| query.wire.len());
            Self { name, about, queries, sockets }
        };
        [
            load("denied", "10,000 names that are not allowed", SOCKETS, no().collect()),
            load("cached", "the 177 allowed names, all of them cached", SOCKETS, yes().collect()),
            load(
                "mixed",
                "half denied, half cached",
                SOCKETS,
                no().chain(yes().cycle().take(DENIED)).collect(),
            ),
            load(SCATTERED, "as denied, one query a socket", IN_FLIGHT, no().collect()),
        ]
    }
}

/// Random names outside of the policy: always the same ones.
fn not_in(policy: &[String]) -> Vec<String> {
    let allowed: HashSet<_> = policy.iter().map(String::as_str).collect();
    let mut random = SmallRng::seed_from_u64(177);
    let names = std::iter::repeat_with(|| {
        let top = ["com", "net", "org", "io"][random.random_range(0..4)];
        let domain = format!("{}.{top}", label(&mut random, 6..=14));
        (format!("{}.{domain}", label(&mut random, 3..=12)), domain)
    });
    let outside = names.filter(|(_, domain)| !allowed.contains(domain.as_str()));
    outside.map(|(name, _)| name).take(DENIED).collect()
}

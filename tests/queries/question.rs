//! Queries byte by byte, good ones and others, without any library that could mend them.

pub const A: u16 = 1;
pub const NS: u16 = 2;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const PTR: u16 = 12;
pub const MX: u16 = 15;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;
pub const NAPTR: u16 = 35;
pub const OPT: u16 = 41;
pub const HTTPS: u16 = 65;
pub const IXFR: u16 = 251;
pub const AXFR: u16 = 252;
pub const ANY: u16 = 255;
pub const CAA: u16 = 257;

/// Options of EDNS that tell of the guest: RFC 7871, RFC 7873, RFC 7830.
pub const CLIENT_SUBNET: u16 = 8;
pub const COOKIE: u16 = 10;
pub const PADDING: u16 = 12;

const CHECKING_DISABLED: u8 = 0x10;
const AUTHENTIC: u8 = 0x20;

/// A query; what it says can be made wrong piece by piece.
#[derive(Clone, Debug)]
pub struct Question {
    pub id: u16,
    pub flags: [u8; 2],
    /// Questions, answers, authorities; additional records are counted.
    pub counts: [u16; 3],
    pub name: Vec<u8>,
    pub record_type: u16,
    pub class: u16,
    pub opt: Option<Opt>,
    /// Whole records behind the question, each counted as additional.
    pub records: Vec<Vec<u8>>,
    /// What stands behind the message.
    pub trailing: Vec<u8>,
    /// Only so many bytes are sent.
    pub cut: Option<usize>,
}

/// An OPT record (RFC 6891 section 6.1.2).
#[derive(Clone, Debug)]
pub struct Opt {
    pub payload: u16,
    pub version: u8,
    pub flags: u16,
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Opt {
    pub fn bytes(&self) -> Vec<u8> {
        let options: Vec<u8> = self
            .options
            .iter()
            .flat_map(|(code, data)| {
                let head = [code.to_be_bytes(), (data.len() as u16).to_be_bytes()].concat();
                [head, data.clone()].concat()
            })
            .collect();
        let mut bytes = vec![0];
        bytes.extend(OPT.to_be_bytes());
        bytes.extend(self.payload.to_be_bytes());
        bytes.extend([0, self.version]);
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend((options.len() as u16).to_be_bytes());
        bytes.extend(options);
        bytes
    }
}

/// Labels on the wire, from a text whose labels have no dot.
pub fn wire(name: &str) -> Vec<u8> {
    labels(&name.split('.').map(str::as_bytes).collect::<Vec<_>>())
}

/// Labels on the wire, of any bytes.
pub fn labels(labels: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in labels.iter().filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(*label);
    }
    bytes.push(0);
    bytes
}

/// A plain question with RD, as a stub resolver asks it.
pub fn ask(name: &str, record_type: u16) -> Question {
    ask_wire(wire(name), record_type)
}

/// The same of a name in wire form.
pub fn ask_wire(name: Vec<u8>, record_type: u16) -> Question {
    Question {
        id: 0x1234,
        flags: [0x01, 0],
        counts: [1, 0, 0],
        name,
        record_type,
        class: 1,
        opt: None,
        records: Vec::new(),
        trailing: Vec::new(),
        cut: None,
    }
}

impl Question {
    /// With an OPT that takes 1,232 bytes.
    pub fn opt(self) -> Self {
        self.payload(1232)
    }

    pub fn payload(mut self, payload: u16) -> Self {
        self.opt = Some(Opt { payload, version: 0, flags: 0, options: Vec::new() });
        self
    }

    pub fn dnssec_ok(self) -> Self {
        self.edit_opt(|opt| opt.flags = 0x8000)
    }

    pub fn version(self, version: u8) -> Self {
        self.edit_opt(|opt| opt.version = version)
    }

    pub fn option(self, code: u16, data: &[u8]) -> Self {
        self.edit_opt(|opt| opt.options.push((code, data.to_vec())))
    }

    fn edit_opt(self, edit: impl FnOnce(&mut Opt)) -> Self {
        let mut with = if self.opt.is_some() { self } else { self.opt() };
        if let Some(opt) = &mut with.opt {
            edit(opt);
        }
        with
    }

    pub fn cd(self) -> Self {
        self.edit(|it| it.flags[1] |= CHECKING_DISABLED)
    }

    pub fn ad(self) -> Self {
        self.edit(|it| it.flags[1] |= AUTHENTIC)
    }

    pub fn class(self, class: u16) -> Self {
        self.edit(|it| it.class = class)
    }

    pub fn opcode(self, opcode: u8) -> Self {
        self.edit(|it| it.flags[0] |= opcode << 3)
    }

    /// With a record behind the question, which the header counts.
    pub fn record(self, bytes: Vec<u8>) -> Self {
        self.edit(|it| it.records.push(bytes))
    }

    /// Anything else.
    pub fn edit(mut self, edit: impl FnOnce(&mut Self)) -> Self {
        edit(&mut self);
        self
    }

    pub fn has_dnssec_ok(&self) -> bool {
        self.opt.as_ref().is_some_and(|opt| opt.flags & 0x8000 != 0)
    }

    pub fn has_cd(&self) -> bool {
        self.flags[1] & CHECKING_DISABLED != 0
    }

    pub fn has_rd(&self) -> bool {
        self.flags[0] & 1 != 0
    }

    /// Name, type and class.
    pub fn question(&self) -> Vec<u8> {
        let fixed = [self.record_type.to_be_bytes(), self.class.to_be_bytes()].concat();
        [self.name.clone(), fixed].concat()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let additional = self.records.len() + usize::from(self.opt.is_some());
        let mut bytes = self.id.to_be_bytes().to_vec();
        bytes.extend(self.flags);
        bytes.extend(self.counts.iter().flat_map(|count| count.to_be_bytes()));
        bytes.extend((additional as u16).to_be_bytes());
        bytes.extend(self.question());
        bytes.extend(self.opt.iter().flat_map(Opt::bytes));
        bytes.extend(self.records.concat());
        bytes.extend(&self.trailing);
        bytes.truncate(self.cut.unwrap_or(bytes.len()));
        bytes
    }
}

/// As the scripts read it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

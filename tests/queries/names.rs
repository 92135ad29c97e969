//! Lines of the table about names: which slot may ask for which, and what is answered here.

use crate::{
    Line,
    expect::{answer, answers, denied, local_none, nothing, own_answer, refused, upstream},
    line,
    question::{A, AAAA, ANY, MX, NS, PTR, TXT, ask, ask_wire, labels},
};

const WWW: &str = "www.lab.example. 300 IN A 203.0.113.15";

/// A name below `any.lab.example` that is so many bytes long on the wire.
fn long(bytes: usize) -> Vec<u8> {
    let rest = bytes - 64 - b"\x03any\x03lab\x07example\x00".len() - 1;
    labels(&[&[b'a'; 63], &vec![b'b'; rest], b"any", b"lab", b"example"])
}

/// What slots may ask for: `LISTS` of `queries.rs`.
pub fn lines() -> Vec<Line> {
    vec![
        // Slot 1 has a tree, with an exception and an exception's exception.
        line("a listed name", ask("www.lab.example", A), answer(&[WWW])),
        line("its other family", ask("www.lab.example", AAAA), {
            answer(&["www.lab.example. 300 IN AAAA 2001:db8:113::15"])
        }),
        line("with OPT", ask("www.lab.example", A).opt(), answer(&[WWW])),
        line("the case of the question is kept", ask("wWw.LaB.eXamPLE", A).opt(), {
            answer(&["wWw.LaB.eXamPLE. 300 IN A 203.0.113.15"])
        }),
        line("far below a listed name", ask("a.b.c.any.lab.example", A), answers(2)),
        line("not listed", ask("evil.example", A), denied()),
        line("not listed, with OPT", ask("evil.example", A).opt(), denied()),
        line("not listed, in any case", ask("eViL.ExAmple", AAAA).opt(), denied()),
        line("not listed, of any type", ask("evil.example", TXT).opt(), denied()),
        line("not listed, for everything", ask("evil.example", ANY).opt(), denied()),
        line("no label boundary", ask("evillab.example", A).opt(), denied()),
        line("a listed name in front", ask("lab.example.evil.test", A).opt(), denied()),
        line("above a listed name", ask("example", A).opt(), nothing()),
        line("above it, without OPT", ask("example", NS), nothing()),
        line("far above a listed name", ask("below.test", A).opt(), nothing()),
        line("beside what is above", ask("beside.below.test", A).opt(), denied()),
        line("the root", ask("", NS).opt(), nothing()),
        line("an exception", ask("secret.any.lab.example", A).opt(), nothing()),
        line("below an exception", ask("x.secret.any.lab.example", A).opt(), denied()),
        line("the longest match", ask("open.secret.any.lab.example", A), answers(2)),
        line("an exception alone", ask("gone.any.lab.example", A).opt(), denied()),
        // Slot 2 has exact names, and no category.
        line("exact", ask("www.lab.example", A), answer(&[WWW])).from("slot2"),
        line("below exact", ask("x.www.lab.example", A).opt(), denied()).from("slot2"),
        line("above exact", ask("lab.example", A).opt(), nothing()).from("slot2"),
        line("another's name", ask("x.any.lab.example", A).opt(), denied()).from("slot2"),
        line("without categories", ask("github.com", A).opt(), denied()).from("slot2"),
        // Slot 3 has a list.
        line("of a list", ask("listed.any.lab.example", A), answers(2)).from("slot3"),
        line("its exception", ask("no.listed.any.lab.example", A).opt(), denied()).from("slot3"),
        line("not on the list", ask("www.lab.example", A).opt(), denied()).from("slot3"),
        // Slot 4 has what all have: one category and single names.
        line("of the category", ask("github.com", A), {
            answer(&["github.com. 300 IN A 203.0.113.10"])
        })
        .from("slot4"),
        line("of another category", ask("deb.debian.org", A).opt(), denied()).from("slot4"),
        line("a name of all", ask("all.any.lab.example", A), answers(2)).from("slot4"),
        line("not a name of all", ask("www.lab.example", A).opt(), denied()).from("slot4"),
        // Answered here.
        line("localhost", ask("localhost", A), own_answer(&["localhost. 60 IN A 127.0.0.1"])),
        line("localhost, IPv6", ask("LOCALhost", AAAA).opt(), {
            own_answer(&["LOCALhost. 60 IN AAAA ::1"])
        }),
        line("below localhost", ask("x.localhost", A), {
            own_answer(&["x.localhost. 60 IN A 127.0.0.1"])
        }),
        line("of localhost nothing else", ask("localhost", MX).opt(), local_none("NOERROR")),
        line("no localhost", ask("localhost.evil.test", A).opt(), denied()),
        line("one label", ask("printer", A).opt(), local_none("NXDOMAIN")),
        line("10/8 backwards", ask("1.0.0.10.in-addr.arpa", PTR).opt(), local_none("NXDOMAIN")),
        line("172.31/16 backwards", ask("1.1.31.172.in-addr.arpa", PTR), local_none("NXDOMAIN")),
        line("172.32/16 backwards", ask("1.1.32.172.in-addr.arpa", PTR).opt(), denied()),
        line("fd00::/8 backwards", ask("1.0.0.d.f.ip6.arpa", PTR).opt(), local_none("NXDOMAIN")),
        line("a public address backwards", ask("1.1.1.1.in-addr.arpa", PTR).opt(), denied()),
        // Lengths and bytes.
        line("128 bytes", ask_wire(long(128), A), answers(2)),
        line("129 bytes", ask_wire(long(129), A).opt(), refused()),
        line("an underscore", ask("_x._y.any.lab.example", A), answers(2)),
        line("a byte beyond ASCII", odd(b"a\xffb"), denied()),
        line("a space", odd(b"a b"), denied()),
        line("a dot within a label", odd(b"a.b"), denied()),
        line("a zero byte", odd(b"a\0b"), denied()),
        line("a name of another zone", ask("unknown.github.com", A), upstream("NXDOMAIN")),
    ]
}

/// A first label of any bytes, below a listed name.
fn odd(label: &[u8]) -> crate::question::Question {
    ask_wire(labels(&[label, b"any", b"lab", b"example"]), A).opt()
}

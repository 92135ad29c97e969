//! Lines of the table about the form of a message: what is no plain question, and what gets no reply at all.

use crate::{
    Line,
    expect::{answers, bad_version, malformed, not_implemented, refused, rejection, silence},
    line,
    question::{A, CLIENT_SUBNET, COOKIE, Opt, PADDING, Question, TXT, ask, ask_wire, labels},
};

fn www() -> Question {
    ask("www.lab.example", A)
}

fn opt() -> Vec<u8> {
    Opt { payload: 1232, version: 0, flags: 0, options: Vec::new() }.bytes()
}

pub fn lines() -> Vec<Line> {
    let mut longest = Vec::new();
    for length in [63, 63, 63, 62] {
        longest.push(length);
        longest.extend(vec![b'a'; length.into()]);
    }
    longest.push(0);
    vec![
        // Counts.
        line("no question", www().edit(|it| it.counts[0] = 0), malformed()),
        line("two questions", two_questions(), malformed()),
        line("an answer", www().edit(|it| it.counts[1] = 1), malformed()),
        line("an authority", www().edit(|it| it.counts[2] = 1), malformed()),
        line(
            "a record that is not there",
            www().edit(|it| it.records.push(Vec::new())),
            malformed(),
        ),
        line("two OPT", www().opt().record(opt()), malformed()),
        line("an A record in the place of OPT", www().record(a_record()), malformed()),
        line("a record behind OPT", www().opt().record(a_record()), malformed()),
        // Bytes.
        line("bytes behind the question", www().edit(|it| it.trailing = vec![0]), malformed()),
        line("bytes behind OPT", www().opt().edit(|it| it.trailing = vec![0]), malformed()),
        line("a compressed question", ask_wire(compressed(), A), malformed()),
        line("a label of a type of RFC 2673", ask_wire(b"\x41\x01\0".to_vec(), A), malformed()),
        line("256 bytes of name", ask_wire(longest, A), malformed()),
        line("half a question", half(17), malformed()),
        line("an OPT with a name", www().record([&[1, b'a'], &opt()[..]].concat()), malformed()),
        line("an option beyond the end", www().record(long_option()), malformed()),
        line("options of all kinds", options(), answers(1)),
        line("an unknown flag", www().edit(|it| it.flags[1] = 0x40), answers(1)),
        line("TC and AA in a query", www().edit(|it| it.flags[0] = 0x07), answers(1)),
        line(
            "unknown flags of EDNS",
            www().opt().edit(|it| {
                it.opt.iter_mut().for_each(|opt| opt.flags = 0x7fff);
            }),
            answers(1),
        ),
        // Versions, classes and operations.
        line("EDNS version 1", www().version(1), bad_version()),
        line("EDNS version 255, with DO", www().dnssec_ok().version(255), bad_version()),
        line("EDNS version 1 of what is denied", ask("evil.example", A).version(1), bad_version()),
        line("class CHAOS", ask("version.bind", TXT).class(3), refused()),
        line("class HESIOD", www().class(4).opt(), refused()),
        line("class ANY", www().class(255), refused()),
        line("class 0", www().class(0), refused()),
        line("IQUERY", www().opcode(1), not_implemented()),
        line("STATUS", www().opcode(2), not_implemented()),
        line("NOTIFY", www().opcode(4).opt(), not_implemented()),
        line("UPDATE", www().opcode(5), not_implemented()),
        // What is never answered.
        line("a response", www().edit(|it| it.flags[0] |= 0x80), silence()),
        line(
            "a response of another kind",
            www().opcode(5).edit(|it| it.flags[0] |= 0x80),
            silence(),
        ),
        line("half a header", half(11), silence()),
        line("nothing", half(0), silence()),
        line("1,233 bytes", padded(1233), rejection()),
        line("1,232 bytes", padded(1232), answers(1)),
    ]
}

fn two_questions() -> Question {
    www().edit(|it| {
        it.counts[0] = 2;
        it.trailing = it.question();
    })
}

/// RFC 1035 section 4.1.4: a pointer, here to itself.
fn compressed() -> Vec<u8> {
    [&labels(&[b"www"])[..4], &[0xc0, 12]].concat()
}

fn a_record() -> Vec<u8> {
    b"\0\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01".to_vec()
}

/// An OPT whose one option says that it is longer than it is.
fn long_option() -> Vec<u8> {
    let mut bytes = opt();
    bytes[10] = 5;
    bytes.extend([0, 10, 0, 2, 7]);
    bytes
}

fn options() -> Question {
    let with = www().option(CLIENT_SUBNET, &[0, 1, 24, 0, 10, 1, 0]).option(COOKIE, &[7; 8]);
    with.option(PADDING, &[0; 100]).option(65_001, b"")
}

/// As long as that, by padding (RFC 7830).
fn padded(bytes: usize) -> Question {
    let without = www().option(PADDING, b"").bytes().len();
    www().option(PADDING, &vec![0; bytes - without])
}

/// The first bytes of a query.
fn half(bytes: usize) -> Question {
    www().edit(|it| it.cut = Some(bytes))
}

//! Lines of the table about types and answers: what passes, and what is made of it.

use crate::{
    Line,
    expect::{
        answer, answers, lab_none, nothing, own_answer, rebinding, refused, truncated, upstream,
    },
    line,
    question::{
        A, AAAA, ANY, AXFR, CAA, CNAME, HTTPS, IXFR, MX, NAPTR, NS, OPT, PTR, SOA, SRV, TXT, ask,
    },
};

const LAB_SOA: &str =
    "lab.example. 300 IN SOA ns.lab.example. root.lab.example. 1 3600 600 86400 40";

pub fn lines() -> Vec<Line> {
    vec![
        // Types.
        line("MX", ask("mail.lab.example", MX), {
            answer(&["mail.lab.example. 300 IN MX 10 www.lab.example."])
        }),
        line("TXT", ask("mail.lab.example", TXT), {
            answer(&["mail.lab.example. 300 IN TXT \"v=spf1 -all\" \"second\""])
        }),
        line("SRV", ask("_sip._udp.lab.example", SRV), {
            answer(&["_sip._udp.lab.example. 300 IN SRV 1 2 5060 www.lab.example."])
        }),
        line("CNAME", ask("alias.lab.example", CNAME), {
            answer(&["alias.lab.example. 300 IN CNAME cdn.unlisted.example."])
        }),
        line("SOA", ask("lab.example", SOA), answer(&[LAB_SOA])),
        line("NS", ask("lab.example", NS), lab_none("NOERROR")),
        line("CAA", ask("lab.example", CAA), lab_none("NOERROR")),
        line("PTR", ask("www.lab.example", PTR), lab_none("NOERROR")),
        line("HTTPS", ask("service.lab.example", HTTPS).opt(), nothing()),
        line("a type that is not answered", ask("www.lab.example", NAPTR).opt(), nothing()),
        line("a type that nobody knows", ask("www.lab.example", 65_280).opt(), nothing()),
        line("everything", ask("mail.lab.example", ANY).opt(), {
            own_answer(&["mail.lab.example. 3600 IN HINFO \"RFC8482\" \"\""])
        }),
        line("AXFR", ask("lab.example", AXFR).opt(), refused()),
        line("IXFR", ask("lab.example", IXFR).opt(), refused()),
        line("OPT as a question", ask("www.lab.example", OPT).opt(), refused()),
        line("type 0", ask("www.lab.example", 0).opt(), refused()),
        // Chains of aliases.
        line("eight aliases", ask("chain8.lab.example", A).opt(), answers(9)),
        line("nine aliases", ask("chain9.lab.example", A).opt(), upstream("SERVFAIL")),
        line("an alias of itself", ask("loop.lab.example", A).opt(), upstream("SERVFAIL")),
        line("an alias of a name that is not listed", ask("alias.lab.example", A), {
            answer(&[
                "alias.lab.example. 300 IN CNAME cdn.unlisted.example.",
                "cdn.unlisted.example. 300 IN A 203.0.113.15",
            ])
        }),
        line("half a chain", ask("half.lab.example", A), {
            answer(&[
                "half.lab.example. 300 IN CNAME rest.lab.example.",
                "rest.lab.example. 300 IN A 203.0.113.15",
            ])
        }),
        line("an alias without the type", ask("alias.lab.example", AAAA), {
            answer(&["alias.lab.example. 300 IN CNAME cdn.unlisted.example."])
        }),
        // Times to live.
        line("a day is too long", ask("old.lab.example", A), {
            answer(&["old.lab.example. 300 IN A 203.0.113.15"])
        }),
        line("seven seconds stay", ask("young.lab.example", A), {
            answer(&["young.lab.example. 7 IN A 203.0.113.15"])
        }),
        // What there is not.
        line("no such name", ask("nothing.lab.example", A).opt(), lab_none("NXDOMAIN")),
        line("nothing of the type", ask("mail.lab.example", AAAA).opt(), lab_none("NOERROR")),
        line("a late answer", ask("late.lab.example", A).opt(), answers(1)).udp(),
        line("a server's failure", ask("broken.lab.example", A).opt(), upstream("SERVFAIL")),
        // Addresses that are not public.
        line("the metadata service", ask("metadata.github.com", A).opt(), rebinding()),
        line("a private address", ask("inside.lab.example", A), rebinding()),
        line("one of two", ask("mixed.lab.example", A).opt(), rebinding()),
        line("behind an alias", ask("hidden.lab.example", A).opt(), rebinding()),
        line("IPv4 within IPv6", ask("mapped.lab.example", AAAA).opt(), rebinding()),
        line("that the configuration lists", ask("private.lab.example", A).opt(), {
            answer(&["private.lab.example. 300 IN A 10.9.9.9"])
        }),
        // Lengths over UDP: 834 bytes, 845 with OPT; and 1,953.
        line("too long for 512", ask("wide.lab.example", A), truncated(29)).udp(),
        line("no less than 512", ask("wide.lab.example", A).payload(100), truncated(29)).udp(),
        line("too long for 844", ask("wide.lab.example", A).payload(844), truncated(49)).udp(),
        line("just 845", ask("wide.lab.example", A).payload(845), answers(50)),
        line("no more than 1232", ask("long.github.com", A).payload(65_535), truncated(74)).udp(),
        line("whole over TCP", ask("long.github.com", A), answers(120)).tcp(),
        line("whole over TCP, with OPT", ask("long.github.com", A).opt(), answers(120)).tcp(),
        // Bits.
        line("AD for who asks", ask("authentic.lab.example", A).ad(), answers(1).ad()),
        line("AD with DO", ask("authentic.lab.example", A).dnssec_ok(), answers(1).ad()),
        line("no AD for others", ask("authentic.lab.example", A).opt(), answers(1)),
        line("no AD of what is not", ask("www.lab.example", A).ad().dnssec_ok(), answers(1)),
        line("CD", ask("www.lab.example", A).cd(), answers(1)),
        line("CD and DO", ask("www.lab.example", A).cd().dnssec_ok(), answers(1)),
        line(
            "CD of what is denied",
            ask("evil.example", A).cd().dnssec_ok(),
            crate::expect::denied(),
        ),
        line("no RD", ask("www.lab.example", A).edit(|it| it.flags[0] = 0), answers(1)),
    ]
}

/// With `svcb = "strip"`.
pub fn svcb_lines() -> Vec<Line> {
    vec![
        line("HTTPS without ech", ask("service.lab.example", HTTPS).opt(), {
            answer(&["service.lab.example. 300 IN HTTPS 1 . alpn=\"h2\" ipv4hint=\"203.0.113.15\""])
        }),
        line("a hint that is not public", ask("trap.lab.example", HTTPS).opt(), rebinding()),
        line("SVCB that is not there", ask("service.lab.example", 64).opt(), lab_none("NOERROR")),
    ]
}

//! Benchmarks: each one with what it needs, all of them, and the README's table of what they have found.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    build_release,
    cargo::Cargo,
    command::{is_root, root, step},
    peers, servers,
    tools::{self, Toolchain},
};

/// What a benchmark needs besides the programs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// They measure the daemon itself.
    Netguard,
    NetguardAndIperf3,
    Resolvers,
    NetguardAndResolvers,
    NetguardAndIptables,
}

/// Every benchmark, in the order of the README's table.
const ALL: [(&str, Needs); 10] = [
    ("decide", Needs::Nothing),
    ("forward", Needs::Netguard),
    ("bulk", Needs::NetguardAndIperf3),
    ("dns", Needs::Resolvers),
    ("denials", Needs::NetguardAndResolvers),
    ("reload", Needs::Nothing),
    ("policy", Needs::NetguardAndIptables),
    ("orders", Needs::Netguard),
    ("idle", Needs::Netguard),
    ("scale", Needs::Nothing),
];

/// Compares with the committed baseline; no part of all.
const QUICK: &str = "quick";

/// Their names, for the command line.
pub const NAMES: [&str; ALL.len()] = {
    let mut names = [""; ALL.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = ALL[index].0;
        index += 1;
    }
    names
};

/// Runs one benchmark, or all.
pub fn run(name: Option<&str>) -> Result<()> {
    let toolchain = tools::for_build()?;
    for (each, needs) in ALL {
        if name.is_none_or(|name| name == each) {
            measure(&toolchain, each, needs)?;
        }
    }
    Ok(())
}

/// Compares what programs cost with what they cost when the baseline was written.
pub fn guard() -> Result<()> {
    measure(&tools::for_build()?, QUICK, Needs::Nothing)
}

fn measure(toolchain: &Toolchain, name: &str, needs: Needs) -> Result<()> {
    tools::ensure(&[tools::IPROUTE2])?;
    match needs {
        Needs::Nothing => {}
        Needs::Netguard => build_release()?,
        Needs::NetguardAndIperf3 => {
            servers::unpack_iperf3()?;
            build_release()?;
        }
        Needs::Resolvers => peers::unpack_resolvers()?,
        Needs::NetguardAndResolvers => {
            peers::unpack_resolvers()?;
            build_release()?;
        }
        Needs::NetguardAndIptables => {
            tools::ensure(&[tools::NFTABLES])?;
            peers::unpack_iptables()?;
            build_release()?;
        }
    }
    let cargo = Cargo::new(toolchain);
    let cargo = if is_root() { cargo } else { cargo.tests_as_root() };
    step(&format!("measuring {name}"));
    cargo.run(["bench", "--quiet", "--package", "netguard-tests", "--bench", name])
}

const BEGIN: &str = "<!-- cargo xtask bench --readme -->\n";
const END: &str = "<!-- end -->\n";

/// Writes what is promised, and what benchmarks have found of it, between two marks of the README.
pub fn write_readme() -> Result<()> {
    let (mut rows, mut machines) = (String::new(), Vec::new());
    for name in NAMES {
        let file = root().join("target/bench").join(format!("{name}.json"));
        if !file.exists() {
            step(&format!("no figures of {name}: cargo xtask bench {name}"));
            continue;
        }
        let found = read(&file)?;
        let promised = found["rows"].as_array().context("no rows")?.iter().filter_map(row);
        rows.extend(promised);
        machines.push(text(&found["machine"]).to_owned());
    }
    ensure!(!rows.is_empty(), "there are no figures in target/bench: run cargo xtask bench first");
    machines.dedup();
    let machines = machines.join("; ");
    let table = format!(
        "{machines}; median (lowest to highest), each beside its peer in one run, by turns:\n\n\
         | what | netguard | beside | ratio | promised | |\n|---|---|---|---|---|---|\n{rows}"
    );
    let readme = root().join("README.md");
    let written = between(&fs::read_to_string(&readme)?, &table)?;
    fs::write(&readme, written)?;
    step("written: README.md");
    Ok(())
}

fn read(file: &Path) -> Result<Value> {
    let text = fs::read_to_string(file)?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report", file.display()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The table's line of something that is promised.
fn row(row: &Value) -> Option<String> {
    let met = if row["is_met"].as_bool()? { "met" } else { "**missed**" };
    let cells = ["what", "netguard_text", "peer_text", "ratio_text", "bound"];
    let [what, ours, peer, ratio, bound] = cells.map(|cell| text(&row[cell]));
    Some(format!("| {what} | {ours} | {peer} | {ratio} | {bound} | {met} |\n"))
}

fn between(readme: &str, table: &str) -> Result<String> {
    let Some((head, rest)) = readme.split_once(BEGIN) else {
        bail!("README.md lacks the line {BEGIN}");
    };
    let (_, tail) = rest.split_once(END).with_context(|| format!("README.md lacks {END}"))?;
    Ok(format!("{head}{BEGIN}{table}{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_has_what_is_promised_and_takes_the_place_of_the_one_before() {
        let found = json!({ "what": "it", "netguard_text": "5 ms", "peer_text": "nft: 110 ms",
                            "ratio_text": "22x faster", "bound": "at least 20x faster", "is_met": true });
        let line = "| it | 5 ms | nft: 110 ms | 22x faster | at least 20x faster | met |\n";
        assert_eq!(row(&found).as_deref(), Some(line));
        assert_eq!(row(&json!({ "what": "it", "netguard_text": "5 ms", "is_met": null })), None);
        let readme = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(between(&readme, line).unwrap(), format!("before\n{BEGIN}{line}{END}after\n"));
        assert!(between("nothing", line).is_err());
    }
}

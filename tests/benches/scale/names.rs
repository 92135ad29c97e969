//! Names of an allowlist.

use std::{fmt::Write as _, fs, path::Path};

use netguard::config::Config;
use netguard_tests::report::Report;

use super::{
    apart,
    lookups::{self, Figures},
    memory::MB,
    table::{Table, column},
};

/// The first argument of the process; then comes the length.
pub const MEASURE: &str = "measure-names";
const LENGTHS: [usize; 4] = [177, 10_000, 100_000, 1_000_000];

pub fn table(_: &mut Report) -> Table {
    let columns = vec![
        column("a name that is listed, ns", 0),
        column("one that is not, ns", 0),
        column("list built, ms", 1),
        column("list, MB", 2),
    ];
    let mut table = Table::new("Names of the allowlist", columns);
    for length in LENGTHS {
        table.add(length, apart([MEASURE, &length.to_string()]));
    }
    table.breaks = broken();
    table
}

/// Prints one length's figures.
pub fn measure(length: &str) {
    let Figures { build, memory, hit, miss } =
        lookups::figures(length.parse().expect("a length")).expect("figures");
    let (ms, mb) = (build.as_secs_f64() * 1e3, memory as f64 / MB);
    println!("{} {} {ms} {mb}", hit.median, miss.median);
}

/// A file of names that is too long.
fn broken() -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let mut names = String::new();
    let mut count = 0;
    while names.len() <= 64 << 20 {
        let _ = writeln!(names, "{count}.some-name-of-usual-length.example");
        count += 1;
    }
    fs::write(directory.path().join("names.txt"), names).expect("the names");
    let toml = "[dns]\nupstreams = [\"9.9.9.9\"]\nlists = [\"names.txt\"]\n[[slot]]\nname = \"slot1\"\nid = 1\n\
                subnet = \"10.0.1.0/24\"\n";
    let file = directory.path().join("netguard.toml");
    fs::write(&file, toml).expect("the configuration");
    let error = Config::read(Path::new(&file)).err().map(|error| error.to_string());
    let message = error.unwrap_or_else(|| "nothing".to_owned());
    let place = directory.path().display().to_string() + "/";
    format!("a file of {count} names: `{}`.", message.replace(&place, ""))
}

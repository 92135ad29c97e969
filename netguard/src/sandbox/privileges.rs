//! What a process may do, as the kernel tells it: a row of a table.

use std::{collections::BTreeMap, fs};

use caps::Capability;

use super::{Error, memory};

/// The privileges of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// Its number.
    pub pid: u32,
    /// Its name, as the kernel has it: 15 bytes at most.
    pub name: String,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// How many more groups it is in.
    pub groups: usize,
    /// What it may do now.
    pub effective: Vec<Capability>,
    /// What it may allow itself.
    pub permitted: Vec<Capability>,
    /// What a program that it executes could get.
    pub bounding: Vec<Capability>,
    /// What a program that it executes keeps.
    pub ambient: Vec<Capability>,
    /// Nothing that it executes gets more rights.
    pub no_new_privileges: bool,
    /// How many filters its system calls go through.
    pub filters: u32,
    /// No memory of it becomes code; known of the own process only.
    pub no_new_code: Option<bool>,
}

impl Privileges {
    /// Those of a process.
    ///
    /// # Errors
    ///
    /// There is no such process, or it is hidden.
    pub fn of(pid: u32) -> Result<Self, Error> {
        let path = format!("/proc/{pid}/status");
        let status = match fs::read_to_string(&path) {
            Ok(status) => status,
            Err(source) => return Err(Error::Proc { path, source }),
        };
        let no_new_code = (pid == std::process::id()).then(memory::refuses_new_code);
        Ok(Self { no_new_code, ..Self::parse(pid, &status) })
    }

    /// From the text of `/proc/PID/status` (proc_pid_status(5)). A line that is not there counts as zero.
    fn parse(pid: u32, status: &str) -> Self {
        let lines: BTreeMap<&str, &str> =
            status.lines().filter_map(|line| line.split_once(":\t")).collect();
        let text = |key| lines.get(key).copied().unwrap_or_default();
        let number = |key| text(key).trim().parse().unwrap_or_default();
        // Real, effective, saved, and of the file system.
        let effective = |key| text(key).split('\t').nth(1).and_then(|id| id.parse().ok());
        let set = |key| capabilities(u64::from_str_radix(text(key).trim(), 16).unwrap_or_default());
        Self {
            pid,
            name: text("Name").to_owned(),
            uid: effective("Uid").unwrap_or_default(),
            gid: effective("Gid").unwrap_or_default(),
            groups: text("Groups").split_whitespace().count(),
            effective: set("CapEff"),
            permitted: set("CapPrm"),
            bounding: set("CapBnd"),
            ambient: set("CapAmb"),
            no_new_privileges: number("NoNewPrivs") == 1,
            filters: number("Seccomp_filters"),
            no_new_code: None,
        }
    }
}

/// Those of the mask, by number.
fn capabilities(mask: u64) -> Vec<Capability> {
    let mut set: Vec<_> =
        caps::all().into_iter().filter(|capability| mask & capability.bitmask() != 0).collect();
    set.sort_by_key(Capability::index);
    set
}

/// The rows as aligned text, under a heading.
#[must_use]
pub fn table(rows: &[Privileges]) -> String {
    const HEAD: [&str; 11] = [
        "PID",
        "NAME",
        "UID",
        "GID",
        "GROUPS",
        "NO_NEW_PRIVS",
        "SECCOMP",
        "MDWE",
        "EFFECTIVE",
        "PERMITTED",
        "BOUNDING",
    ];
    let yes = |is_so: bool| if is_so { "yes" } else { "no" }.to_owned();
    let cells = |row: &Privileges| -> [String; HEAD.len()] {
        [
            row.pid.to_string(),
            row.name.clone(),
            row.uid.to_string(),
            row.gid.to_string(),
            row.groups.to_string(),
            yes(row.no_new_privileges),
            row.filters.to_string(),
            row.no_new_code.map_or_else(|| "?".to_owned(), yes),
            names(&row.effective),
            names(&row.permitted),
            names(&row.bounding),
        ]
    };
    let lines: Vec<_> =
        std::iter::once(HEAD.map(str::to_owned)).chain(rows.iter().map(cells)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// As in "bpf,net_admin", "all but sys_module", "all", "none".
fn names(set: &[Capability]) -> String {
    if set.is_empty() {
        return "none".to_owned();
    }
    let list = |set: &[Capability]| {
        let names = set.iter().map(|it| it.to_string().to_lowercase());
        names.map(|name| name.trim_start_matches("cap_").to_owned()).collect::<Vec<_>>().join(",")
    };
    let mut absent: Vec<_> = caps::all().into_iter().filter(|it| !set.contains(it)).collect();
    absent.sort_by_key(Capability::index);
    match absent.len() {
        0 => "all".to_owned(),
        few if few * 4 < set.len() => format!("all but {}", list(&absent)),
        _ => list(set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel prints them, less what is not read.
    const MONITOR: &str = "Name:\tnetguard\nUmask:\t0022\nUid:\t0\t1\t2\t3\nGid:\t4\t5\t6\t7\nGroups:\t4 27 \n\
        CapInh:\t0000000000000000\nCapPrm:\t000000c000001000\nCapEff:\t0000008000001000\n\
        CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

    #[test]
    fn a_status_becomes_a_row() {
        use Capability as C;
        let row = Privileges::parse(17, MONITOR);
        assert_eq!((row.uid, row.gid, row.groups), (1, 5, 2));
        assert_eq!(row.effective, [C::CAP_NET_ADMIN, C::CAP_BPF]);
        assert_eq!(row.permitted, [C::CAP_NET_ADMIN, C::CAP_PERFMON, C::CAP_BPF]);
        assert_eq!((row.bounding.len(), row.ambient.len()), (41, 0));
        assert_eq!((row.no_new_privileges, row.filters), (true, 3));
        let worker =
            Privileges { pid: 4321, effective: Vec::new(), bounding: Vec::new(), ..row.clone() };
        let expected = "\
PID   NAME      UID  GID  GROUPS  NO_NEW_PRIVS  SECCOMP  MDWE  EFFECTIVE      PERMITTED              BOUNDING
17    netguard  1    5    2       yes           3        ?     net_admin,bpf  net_admin,perfmon,bpf  all
4321  netguard  1    5    2       yes           3        ?     none           net_admin,perfmon,bpf  none
";
        assert_eq!(table(&[row, worker]), expected);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = Privileges::of(u32::MAX).expect_err("no such process");
        assert_eq!(error.to_string(), "cannot read /proc/4294967295/status; is /proc mounted?");
    }
}

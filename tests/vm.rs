//! The end-to-end tests once more, in a virtual machine with Debian's kernel. It takes some ten minutes, so it is no part of
//! `cargo test`: `cargo xtask vm` builds what it needs and runs it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use netguard_tests::{
    binary,
    guest::{Machine, System, on_this_host},
};

/// Which end-to-end tests run on Debian's kernel: all of these files, but for tests that bring nothing of a kernel's to light
/// and take minutes there, where the processor is a program.
const END_TO_END: [(&str, &[&str]); 10] = [
    // What takes hundreds of processes, dumps of large maps, or links of TC.
    (
        "explain",
        &[
            "a_dry_run_leaves_no_trace_and_says_what_a_packet_meets",
            "two_hundred_packets_meet_what_explain_says",
        ],
    ),
    (
        "verify",
        &[
            "a_detached_and_a_replaced_program_are_found",
            "a_program_that_was_replaced_everywhere_is_found",
            "an_edited_entry_is_found_in_each_map",
        ],
    ),
    (
        "doctor",
        &[
            "a_flood_is_counted_and_hides_no_other_slots_drop",
            "a_host_as_it_should_be_has_nothing_broken_or_weak",
            "what_is_broken_on_the_host_is_named_and_nothing_else",
        ],
    ),
    ("denial", &[]),
    (
        "kernel_denials",
        &[
            "a_flood_of_denied_queries_is_told_to_the_last",
            "the_programs_deny_what_no_list_has_and_nothing_else",
            "names_that_somebody_takes_out_of_the_map_are_put_back",
        ],
    ),
    ("clsact", &["what_is_held_stays_so_and_who_is_waited_for_gets_filters"]), // without tcx there is nothing to take over
    (
        "lifecycle",
        &[
            "a_flood_of_drops_keeps_neither_ports_nor_signals_waiting",
            "a_log_that_nobody_reads_stops_neither_dns_nor_signals",
            "the_foreground_lab_goes_with_ctrl_c",
            "the_capabilities_that_the_unit_grants_are_enough_without_root",
        ],
    ),
    (
        "lab",
        &[
            "a_second_lab_up_replaces_the_first_and_a_crash_is_no_obstacle",
            "every_ordered_pair_of_slots_is_isolated_and_every_attempt_counted_and_logged_once",
        ],
    ),
    ("fast_path", &[]),
    ("firewall", &[]),
];

#[test]
fn netguard_holds_on_debians_kernel_from_end_to_end() {
    let Some(machine) = Machine::find() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().expect("the tests' folder");
    let mut system = System::new();
    system.add_modules(&machine);
    system.add_program_as(&binary::path(), "/netguard/netguard");
    // The tests look for the files of the tree from here.
    system.copy(&root.join("guest"));
    system.copy(&root.join("../dist").canonicalize().expect("the examples"));
    let mut script = format!(
        "export PATH={} NETGUARD_NO_SKIP=1 NETGUARD_TEST_PATIENCE=600\nip link set lo up\n",
        system.path()
    );
    script.push_str("/sbin/modprobe tun\n");
    for (test, without) in END_TO_END {
        system.add_program_as(&built(test), &format!("/netguard/deps/{test}"));
        let skip: Vec<_> = without.iter().map(|name| format!("--skip {name}")).collect();
        script.push_str(&format!("/netguard/deps/{test} --test-threads 2 {}\n", skip.join(" ")));
        script.push_str(&format!("echo GUEST {test} $?\n"));
    }
    system.write("/end-to-end", &script);
    let (_directory, image) = system.image();
    let drive = format!("file={},if=none,id=root,format=raw,cache=unsafe", image.display());
    let devices = ["-drive", &drive, "-device", "virtio-blk-pci,drive=root"];

    let started = Instant::now();
    let console = machine
        .guest(include_str!("guest/end-to-end.sh"))
        .with_disk_drivers()
        .with_patience(Duration::from_secs(1800))
        .boot(on_this_host, &devices);
    let kernel = console.after("GUEST kernel ").expect("the guest's kernel").to_owned();
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("Linux {kernel} (the guest took {seconds:.0} s)");
    let mut failed = false;
    for (test, _) in END_TO_END {
        let code = console.after(&format!("GUEST {test} ")).unwrap_or("nothing");
        failed |= code != "0";
        eprintln!("{test:<16} {}", if code == "0" { "ok" } else { "FAILED" });
    }
    let log: Vec<_> = console.lines().collect();
    assert!(!failed, "{}", log.join("\n"));
}

/// The test program of that name that was built last.
fn built(test: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    let prefix = format!("{test}-");
    let is_it = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&prefix) && path.extension().is_none()
    };
    let entries = fs::read_dir(own.parent().expect("a folder")).expect("a folder").flatten();
    let when = |path: &PathBuf| {
        fs::metadata(path).and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let found = entries.map(|entry| entry.path()).filter(|path| is_it(path)).max_by_key(when);
    found.unwrap_or_else(|| panic!("{test} is not built: cargo test --no-run --test {test}"))
}

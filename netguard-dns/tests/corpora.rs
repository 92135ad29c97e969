//! Everything that the fuzzer has kept and everything it has ever broken, once more, without it.

#[path = "../../fuzz/checks/guest_query.rs"]
mod guest_query;
#[path = "../../fuzz/checks/upstream_answer.rs"]
mod upstream_answer;

use std::{fs, path::Path};

/// Runs the check over every file that the target has in `fuzz/corpus` and `fuzz/regressions`.
fn run(target: &str, check: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut inputs = 0;
    for folder in ["corpus", "regressions"] {
        for file in fs::read_dir(fuzz.join(folder).join(target)).expect("a folder of inputs") {
            let path = file.expect("a file").path();
            eprintln!("{}", path.display()); // the last one is the one that failed
            check(&fs::read(path).expect("an input"));
            inputs += 1;
        }
    }
    assert!(inputs > 10, "the corpus of {target} is gone");
}

#[test]
fn what_guests_may_send_holds_for_every_kept_input() {
    run("guest_query", guest_query::check);
}

#[test]
fn what_upstreams_may_answer_holds_for_every_kept_input() {
    run("upstream_answer", upstream_answer::check);
}

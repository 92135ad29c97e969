//! A process in the sandbox, as the worker is one: it confines itself by the library, tries things and prints what came
//! of it. `tests/sandbox.rs` starts it and holds that against what it expects.

mod attempts;
mod bpf;
mod duties;
mod layers;

use std::{
    env,
    io::{self, Read as _},
    path::Path,
};

use netguard::sandbox::{Confinement, confine};
use nix::{
    sys::prctl::set_keepcaps,
    unistd::{Gid, setgroups},
};

/// A user and a group that nobody else has.
const USER: u32 = 61_234;

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["attempts", confined, victim, pin, directory] => {
            let attempts = attempts::all(victim, pin, directory);
            if *confined == "confined" {
                println!("{}", confine(&nothing()).expect("a sandbox"));
            }
            attempts::make(&attempts);
        }
        ["duties", pins, listener] => duties::perform(Path::new(pins), Path::new(listener)),
        ["readable", path] => {
            confine(&Confinement { readable: vec![path.into()], ..nothing() }).expect("a sandbox");
            layers::try_files(path);
        }
        ["layer", layer, rest @ ..] => layers::alone(layer, rest),
        ["idle"] => {
            // What a careless parent could leave: groups, and capabilities that another user would keep.
            setgroups(&[Gid::from_raw(4), Gid::from_raw(27)]).expect("groups");
            set_keepcaps(true).expect("a flag of the process");
            println!("{}", confine(&nothing()).expect("a sandbox"));
            // Until whoever looks has looked.
            let _ = io::stdin().read(&mut [0]);
        }
        other => panic!("unknown: {other:?}"),
    }
}

/// The user, and nothing that it may do.
fn nothing() -> Confinement {
    Confinement { uid: USER, gid: USER, ..Confinement::default() }
}

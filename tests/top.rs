//! `netguard top` on a terminal of its own: what is dropped and denied comes onto the screen, and the terminal is left as it was.

use std::{
    io::{Read as _, Write as _},
    process::{ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
};

use netguard_tests::{
    binary::{Ended, netguard, path},
    can_use_kernel,
    lab::{Background, Lab},
    until,
};

/// The sequences that enter and leave a screen of one's own.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// A program on a terminal of 80 columns and 24 lines.
struct Terminal {
    keys: ChildStdin,
    /// All that was written onto it.
    written: Arc<Mutex<String>>,
    process: Background,
}

impl Terminal {
    fn of(command: &str) -> Self {
        let script = format!("stty cols 80 rows 24; {command}");
        let mut child = Command::new("script")
            .args(["-qec", &script, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1) starts");
        let keys = child.stdin.take().expect("its input");
        let mut output = child.stdout.take().expect("its output");
        let written = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                let text = String::from_utf8_lossy(&piece[..length]);
                shared.lock().expect("the text").push_str(&text);
            }
        });
        Self { keys, written, process: child.into() }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("it reads");
        self.keys.flush().expect("it reads");
    }

    /// Words without spaces: what is blank already is not written.
    fn shows(&self, words: &str) -> bool {
        self.written.lock().expect("the text").contains(words)
    }
}

#[test]
fn what_happens_comes_onto_the_screen_and_q_leaves_it_as_it_was() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let top = format!("{} top --instance {}", path().display(), lab.instance());
    let mut terminal = Terminal::of(&top);
    until("the slots are shown", || terminal.shows("slot5") && terminal.shows("port_egress"));
    assert!(terminal.shows(ENTER));
    assert_ne!(lab.exec("slot1", "ping -c 1 -W 0.2 10.2.0.2").code, 0);
    until("a drop is listed", || terminal.shows("10.2.0.2"));
    let _ = lab.exec("slot2", "dig +tries=1 +time=5 evil.example @8.8.8.8");
    until("a denied name is listed", || terminal.shows("evil.example"));
    terminal.press("\r");
    until("the slot has a screen of its own", || terminal.shows("interfaces"));
    assert!(!terminal.shows(LEAVE));
    terminal.press("q");
    let ended = terminal.process.child().wait().expect("it ends");
    assert!(ended.success(), "{ended:?}");
    until("the screen is left", || terminal.shows(LEAVE));
}

#[test]
fn there_is_no_screen_in_a_pipe_and_none_without_a_daemon() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let instance = lab.instance();
    let refused = Ended::of(&mut netguard(&["top", "--instance", &instance]));
    assert!(refused.code == 1 && refused.stderr.contains("top needs a terminal"), "{refused:?}");
    netguard_tests::daemon::kill(&lab, "TERM");
    let mut terminal = Terminal::of(&format!("{} top --instance {instance}", path().display()));
    until("it says so", || terminal.shows("no netguard runs as instance"));
    assert!(!terminal.process.child().wait().expect("it ends").success());
    assert!(!terminal.shows(ENTER));
}

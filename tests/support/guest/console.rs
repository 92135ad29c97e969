//! What a guest said on its serial console.

use std::{
    io::{BufRead as _, BufReader, PipeReader},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

/// The last thing that a guest says.
const DONE: &str = "GUEST done";

/// The lines of a guest that came to the end of its script.
pub struct Console {
    lines: Vec<String>,
}

impl Console {
    /// Listens until the other end of the pipe is closed, and repeats what tests say of themselves.
    ///
    /// # Panics
    ///
    /// That takes too long, or the guest ended before its script did.
    pub(super) fn until_done(pipe: PipeReader, patience: Duration) -> Self {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        });
        let started = Instant::now();
        let deadline = started + patience;
        let mut lines: Vec<String> = Vec::new();
        let ended = loop {
            match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if line.starts_with("test ") {
                        eprintln!("{:>5.0} s  {line}", started.elapsed().as_secs_f64());
                    }
                    lines.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => break "ended early",
                Err(RecvTimeoutError::Timeout) => break "did not end in time",
            }
        };
        let console = Self { lines };
        let is_done = console.lines.iter().any(|line| line == DONE);
        assert!(is_done, "the guest {ended}; its console ends with\n{}", console.tail());
        console
    }

    /// Its lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// What follows a word at the start of the first line that has it.
    #[must_use]
    pub fn after(&self, word: &str) -> Option<&str> {
        self.lines().find_map(|line| line.strip_prefix(word)).map(str::trim)
    }

    /// The last lines, for messages.
    #[must_use]
    pub fn tail(&self) -> String {
        self.lines[self.lines.len().saturating_sub(50)..].join("\n")
    }
}

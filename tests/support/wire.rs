//! Frames put onto a wire of a lab byte for byte, and everything that arrives at one of its interfaces.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{Arc, Mutex},
};

use crate::{
    lab::{Background, Lab},
    packet::carries,
};

/// Sends each line of its input, in hexadecimal, and says when it is sent, or dropped where it leaves (ENOBUFS).
const SEND: &str = "
import errno, socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((sys.argv[1], 0))
print('ready', flush=True)
for line in sys.stdin:
    try: wire.send(bytes.fromhex(line))
    except OSError as error:
        if error.errno != errno.ENOBUFS: raise
    print('sent', flush=True)
";

/// Prints every frame that arrives, also those for other MACs, and says when it listens. A tag that the
/// kernel took off is not put back.
const CAPTURE: &str = "
import socket, struct, sys
ALL, OUTGOING, ADD_MEMBERSHIP, PROMISCUOUS, SOL_PACKET, BUFFER = 3, 4, 1, 1, 263, 4 << 20
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
wire.setsockopt(socket.SOL_SOCKET, 33, BUFFER) # SO_RCVBUFFORCE
wire.bind((sys.argv[1], ALL))
request = struct.pack('iHH8s', socket.if_nametoindex(sys.argv[1]), PROMISCUOUS, 0, bytes(8))
wire.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, request)
print('ready', flush=True)
while True:
    frame, origin = wire.recvfrom(65600)
    if origin[2] != OUTGOING: print(frame.hex(), flush=True)
";

/// One end of a wire, to send on.
pub struct Wire {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _process: Background,
}

impl Wire {
    /// Sends on an interface of a host.
    #[must_use]
    pub fn on(lab: &Lab, host: &str, interface: &str) -> Self {
        let mut child = python(lab, host, &[SEND, interface]);
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut wire = Self { input, output, _process: child.into() };
        wire.expect("ready");
        wire
    }

    /// Sends a frame. It is on the wire when this returns.
    pub fn send(&mut self, frame: &[u8]) {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.input, "{hex}").expect("it reads");
        self.expect("sent");
    }

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        assert_eq!(line.trim_end(), word, "the sender has ended");
    }
}

/// What arrives at an interface.
pub struct Capture {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    _process: Background,
}

impl Capture {
    /// Listens on an interface of a host from now on.
    #[must_use]
    pub fn on(lab: &Lab, host: &str, interface: &str) -> Self {
        let mut child = python(lab, host, &[CAPTURE, interface]);
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let first = lines.next().expect("a line").expect("text");
        assert_eq!(first, "ready");
        let frames = Arc::new(Mutex::new(Vec::new()));
        let arrived = Arc::clone(&frames);
        // It ends with the process.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                arrived.lock().expect("no panic").push(bytes(&line));
            }
        });
        Self { frames, _process: child.into() }
    }

    /// Everything so far.
    #[must_use]
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.frames.lock().expect("no panic").clone()
    }

    /// How many frames with the mark came so far; see [`crate::packet::marked`].
    #[must_use]
    pub fn count(&self, mark: u16) -> usize {
        self.frames.lock().expect("no panic").iter().filter(|frame| carries(frame, mark)).count()
    }
}

fn python(lab: &Lab, host: &str, script_and_arguments: &[&str]) -> Child {
    lab.command(host, &[&["python3", "-c"], script_and_arguments].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed")
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len() / 2 * 2).step_by(2).map(byte).collect()
}

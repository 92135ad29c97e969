//! One step of the sandbox without the others: what it refuses, nothing else would.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream},
    },
};

use netguard::sandbox::{self, Confinement};
use nix::{
    sys::{
        signal::kill,
        socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
    },
    unistd::{Pid, Uid, setuid},
};

use crate::{attempts, nothing};

/// Takes the step and tries what it is for.
pub fn alone(layer: &str, rest: &[&str]) {
    match (layer, rest) {
        ("identity", [victim, file]) => {
            let wanted = nothing();
            sandbox::become_user(wanted.uid, wanted.gid).expect("another user");
            sandbox::drop_capabilities().expect("no capabilities");
            told("uid-back", setuid(Uid::from_raw(0)).map_err(io::Error::from));
            told("open-private", File::open(file));
            told("kill", kill(process(victim), None).map_err(io::Error::from));
            let (family, kind) = (AddressFamily::Inet, SockType::Raw);
            let raw = socket(family, kind, SockFlag::empty(), SockProtocol::Tcp);
            told("socket-raw", raw.map_err(io::Error::from));
        }
        ("memory", []) => {
            println!("took-hold {}", sandbox::refuse_new_code().expect("an answer"));
            attempts::make(&attempts::memory()[..3]);
        }
        ("access", [victim, file, allowed, refused, name]) => {
            let port = |port: &str| port.parse::<u16>().expect("a port");
            let (allowed, refused) = (port(allowed), port(refused));
            let wanted = Confinement {
                tcp_bind: Some(vec![allowed]),
                tcp_connect: Some(vec![allowed]),
                ..nothing()
            };
            let abi = sandbox::restrict_access(&wanted).expect("rules");
            println!("abi {}", abi.unwrap_or(0));
            told("open", File::open(file));
            told("kill", kill(process(victim), None).map_err(io::Error::from));
            let at = |port| (Ipv4Addr::LOCALHOST, port);
            told("connect-refused", TcpStream::connect(at(refused)));
            told("bind-refused", TcpListener::bind(at(refused)));
            let listener = TcpListener::bind(at(allowed));
            told("connect-allowed", TcpStream::connect(at(allowed)));
            told("bind-allowed", listener);
            let address = SocketAddr::from_abstract_name(name).expect("a short name");
            told("abstract", UnixStream::connect_addr(&address));
        }
        other => panic!("unknown: {other:?}"),
    }
}

/// What is left of files if one may be read: that one, and that only for reading.
pub fn try_files(path: &str) {
    told("read", std::fs::read(path));
    told("write", File::options().write(true).open(path));
    told("elsewhere", File::open("/etc/passwd"));
}

fn process(pid: &str) -> Pid {
    Pid::from_raw(pid.parse().expect("a process"))
}

fn told<T>(name: &str, outcome: io::Result<T>) {
    let errno = |error: io::Error| {
        let errno = nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0));
        format!("{errno:?}")
    };
    println!("{name} {}", outcome.map_or_else(errno, |_| "done".to_owned()));
}

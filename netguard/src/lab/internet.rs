//! The lab's internet: resolvers, web hosts and a metadata service, all on addresses that exist only
//! inside the lab. Its log tells every query and connection that reached it: what is not there did
//! not leave the hypervisor.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use hickory_proto::op::Message;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::{
    Error, Lab, PortKind, guests, namespace, wire,
    zone::{self, Reply, Zone},
};

/// Public resolvers: a DNS server answers on each, over UDP, TCP and (for the attempt) port 853.
const RESOLVERS: [&str; 4] = ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "2001:4860:4860::8888"];

/// Web hosts, on and off the allowlist. Documentation addresses (RFC 5737, RFC 3849).
const HOSTS: &[(&str, &str, &str)] = &[
    ("github.com", "203.0.113.10", "2001:db8:113::10"),
    ("api.github.com", "203.0.113.11", "2001:db8:113::11"),
    ("gitlab.com", "203.0.113.12", "2001:db8:113::12"),
    ("deb.debian.org", "203.0.113.13", "2001:db8:113::13"),
    ("api.openai.com", "203.0.113.14", "2001:db8:113::14"),
    ("www.lab.example", "203.0.113.15", "2001:db8:113::15"),
    ("evil.example", "203.0.113.66", "2001:db8:113::66"),
    ("exfil.evil.example", "203.0.113.67", "2001:db8:113::67"),
    ("evilgithub.com", "203.0.113.68", "2001:db8:113::68"),
];

/// The host that has a Debian archive of one package: `deb [trusted=yes] http://deb.debian.org/lab ./`
const ARCHIVE: &str = "deb.debian.org";
const PACKAGES_PATH: &str = "/lab/./Packages";
const PACKAGES: &str = "\
Package: netguard-lab
Version: 1.0
Architecture: all
Maintainer: nobody <nobody@lab.example>
Filename: ./netguard-lab.deb
Size: 1
SHA256: 0000000000000000000000000000000000000000000000000000000000000000
Description: only in the lab's internet
";

/// The metadata service of the big clouds.
const METADATA: &str = "169.254.169.254";

/// Addresses behind an alias only.
const ALIASED: [&str; 2] = ["203.0.113.20", "2001:db8:113::20"];

/// Every address here is the internet's own too, all of them neighbours of [`HOSTS`].
pub(super) const ALL_OF: &str = "203.0.0.0/15";

/// Every address that the internet owns, for its loopback interface.
pub(super) fn addresses() -> impl Iterator<Item = String> {
    let hosts = HOSTS.iter().flat_map(|(_, v4, v6)| [*v4, *v6]);
    hosts.chain(ALIASED).chain(RESOLVERS).chain([METADATA]).map(|address| {
        let length = if address.contains(':') { 128 } else { 32 };
        format!("{address}/{length}")
    })
}

/// Runs the internet and, with TAP ports, the guests' wires, until the process is ended.
///
/// # Errors
///
/// The lab is not there, or a socket cannot be bound.
pub fn serve(lab: &Lab) -> Result<(), Error> {
    if lab.built_ports() == PortKind::Tap {
        for guest in guests::of(&lab.config().policy.slots) {
            wire::connect(
                (&lab.namespace("hv"), &guest.port),
                (&lab.namespace(&guest.host), "eth0"),
            )?;
        }
    }
    namespace::enter(&lab.namespace("net"))?;
    let failed = || Error::system("serve the lab's internet");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed())?;
    runtime.block_on(serve_sockets()).map_err(failed())
}

async fn serve_sockets() -> std::io::Result<()> {
    let zone = Arc::new(Zone::new(HOSTS));
    let web = TcpListener::bind("[::]:80").await?;
    tokio::spawn(serve_web(web));
    let mut resolvers = Vec::new();
    for address in RESOLVERS {
        let address: IpAddr = address.parse().map_err(std::io::Error::other)?;
        let udp = UdpSocket::bind((address, 53)).await?;
        let tcp = TcpListener::bind((address, 53)).await?;
        let tls = TcpListener::bind((address, 853)).await?;
        resolvers.push(tokio::spawn(answer_datagrams(udp, Arc::clone(&zone))));
        tokio::spawn(answer_connections(tcp, Arc::clone(&zone)));
        tokio::spawn(accept_tls(tls));
    }
    // The lab waits for this word; without it nobody does.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    for resolver in resolvers {
        let _ = resolver.await;
    }
    Ok(())
}

/// Writes a query down, as it came, and looks up its answer.
fn answer(
    zone: &Zone,
    bytes: &[u8],
    [client, server]: [SocketAddr; 2],
    transport: &str,
) -> Option<Reply> {
    let query = Message::from_vec(bytes).ok()?;
    let question = query.queries.first()?;
    let name = zone::text(question.name());
    log(&json!({
        "event": "query",
        "server": server.ip(),
        "transport": transport,
        "name": name,
        "type": question.query_type().to_string(),
        "src_port": client.port(),
        "bytes": hexadecimal(bytes),
    }));
    Some(zone.answer(query.metadata.id, query.metadata.recursion_desired, question))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a string takes everything
        text
    })
}

async fn answer_datagrams(socket: UdpSocket, zone: Arc<Zone>) {
    let Ok(server) = socket.local_addr() else {
        return;
    };
    let socket = Arc::new(socket);
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let reply = answer(&zone, &buffer[..length], [client, server], "udp");
        let Some(Reply { message, after }) = reply else { continue };
        let Some(bytes) = datagram(&message) else { continue };
        let socket = Arc::clone(&socket);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let _ = socket.send_to(&bytes, client).await; // a lost datagram, as on any network
        });
    }
}

/// The answer, or as much of it as fits.
fn datagram(message: &Message) -> Option<Vec<u8>> {
    const LIMIT: usize = 1232;
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= LIMIT {
        return Some(bytes);
    }
    message.truncate().to_vec().ok()
}

async fn answer_connections(listener: TcpListener, zone: Arc<Zone>) {
    while let Ok((stream, client)) = listener.accept().await {
        let zone = Arc::clone(&zone);
        tokio::spawn(async move { answer_connection(stream, client, &zone).await });
    }
}

async fn answer_connection(mut stream: TcpStream, client: SocketAddr, zone: &Zone) -> Option<()> {
    let server = stream.local_addr().ok()?;
    loop {
        let query = netguard_dns::read_framed(&mut stream).await.ok()?;
        let Reply { message, after } = answer(zone, &query, [client, server], "tcp")?;
        tokio::time::sleep(after).await;
        netguard_dns::write_framed(&mut stream, &message.to_vec().ok()?).await.ok()?;
    }
}

/// An open port 853: if a guest gets this far, netguard has a hole.
async fn accept_tls(listener: TcpListener) {
    while let Ok((stream, client)) = listener.accept().await {
        log(&json!({"event": "encrypted-dns", "client": client.ip()}));
        drop(stream);
    }
}

async fn serve_web(listener: TcpListener) {
    while let Ok((stream, client)) = listener.accept().await {
        tokio::spawn(async move { serve_page(stream, client).await });
    }
}

async fn serve_page(mut stream: TcpStream, client: SocketAddr) -> Option<()> {
    let server = stream.local_addr().ok()?.ip().to_canonical();
    log(&json!({"event": "web", "server": server, "client": client.ip().to_canonical()}));
    let mut request = [0; 8192];
    let mut length = 0;
    while !request[..length].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut request[length..]).await.ok()? {
            0 => return None,
            more => length += more,
        }
    }
    let named = |(_, v4, v6): &&(&str, &str, &str)| {
        [*v4, *v6].iter().any(|address| address.parse() == Ok(server))
    };
    let request = String::from_utf8_lossy(&request[..length]);
    let path = request.split(' ').nth(1).unwrap_or("/");
    let (status, page) = match HOSTS.iter().find(named) {
        Some((ARCHIVE, ..)) if path == PACKAGES_PATH => ("200 OK", PACKAGES.to_owned()),
        Some((ARCHIVE, ..)) if path != "/" => ("404 Not Found", String::new()),
        Some((name, ..)) => ("200 OK", format!("this is {name}, in the lab's internet\n")),
        None => ("200 OK", format!("this is {server}, in the lab's internet\n")),
    };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{page}",
        page.len()
    );
    stream.write_all(response.as_bytes()).await.ok()
}

fn log(entry: &serde_json::Value) {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    // One write per line, so that lines of two tasks never mix; a full disk costs lines only.
    let _ = std::io::stdout().write_all(format!("{time} {entry}\n").as_bytes());
}

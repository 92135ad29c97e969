//! The lab's internet: resolvers, web hosts and a metadata service, all on addresses that exist only
//! inside the lab. Its log tells every query and connection that reached it: what is not there did
//! not leave the hypervisor.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::CNAME},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::{Error, Lab, PortKind, guests, namespace, wire};
use netguard_dns::DomainName;

/// Public resolvers: a DNS server answers on each, over UDP, TCP and (for the attempt) port 853.
const RESOLVERS: [&str; 4] = ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "2001:4860:4860::8888"];

/// Web hosts, on and off the allowlist. Documentation addresses (RFC 5737, RFC 3849).
const HOSTS: &[(&str, &str, &str)] = &[
    ("github.com", "203.0.113.10", "2001:db8:113::10"),
    ("api.github.com", "203.0.113.11", "2001:db8:113::11"),
    ("gitlab.com", "203.0.113.12", "2001:db8:113::12"),
    ("deb.debian.org", "203.0.113.13", "2001:db8:113::13"),
    ("api.openai.com", "203.0.113.14", "2001:db8:113::14"),
    ("evil.example", "203.0.113.66", "2001:db8:113::66"),
    ("exfil.evil.example", "203.0.113.67", "2001:db8:113::67"),
    ("evilgithub.com", "203.0.113.68", "2001:db8:113::68"),
];

/// The metadata service of the big clouds.
const METADATA: &str = "169.254.169.254";

/// An allowed name whose owner points it at the metadata service.
const REBOUND_NAME: &str = "metadata.github.com";

/// A name whose answer is too long for UDP.
const LONG_NAME: &str = "long.github.com";
/// How many addresses it has.
const LONG_ANSWER: u8 = 120;

/// `A-B-C-D.ip.github.com` has the address A.B.C.D and no other: as many names as a test wants to ask for.
const EACH_ADDRESS: &str = ".ip.github.com";

/// A name that is another one's alias, and that one, which no list has.
const ALIAS: (&str, &str) = ("alias.github.com", "edge.cdn.example");
/// The addresses behind it.
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
    let zone = Arc::new(Zone::new());
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

/// What the resolvers know.
struct Zone {
    names: BTreeMap<String, Vec<IpAddr>>,
}

impl Zone {
    fn new() -> Self {
        let parse = |address: &str| address.parse::<IpAddr>().ok();
        let mut names: BTreeMap<String, Vec<IpAddr>> = HOSTS
            .iter()
            .map(|(name, v4, v6)| {
                ((*name).to_owned(), [*v4, *v6].into_iter().filter_map(parse).collect())
            })
            .collect();
        let long = (0..LONG_ANSWER).map(|host| IpAddr::from([198, 51, 100, host])).collect();
        names.insert(LONG_NAME.to_owned(), long);
        names.insert(REBOUND_NAME.to_owned(), parse(METADATA).into_iter().collect());
        names.insert(ALIAS.1.to_owned(), ALIASED.into_iter().filter_map(parse).collect());
        Self { names }
    }

    fn addresses(&self, name: &str) -> Option<Cow<'_, [IpAddr]>> {
        if let Some(known) = self.names.get(name) {
            return Some(known.into());
        }
        let address: Ipv4Addr = name.strip_suffix(EACH_ADDRESS)?.replace('-', ".").parse().ok()?;
        Some(vec![address.into()].into())
    }

    fn answer(&self, bytes: &[u8], server: SocketAddr, transport: &str) -> Option<Message> {
        let query = Message::from_vec(bytes).ok()?;
        let question = query.queries.first()?;
        let name = DomainName::from_wire(question.name())?;
        let kind = question.query_type();
        log(&json!({
            "event": "query",
            "server": server.ip(),
            "transport": transport,
            "name": name.as_str(),
            "type": kind.to_string(),
        }));
        let mut reply = Message::response(query.metadata.id, OpCode::Query);
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.add_query(question.clone());
        let (mut owner, mut target) = (question.name().clone(), name.as_str());
        if target == ALIAS.0 {
            let next = Name::from_ascii(format!("{}.", ALIAS.1)).ok()?;
            let data = RData::CNAME(CNAME(next.clone()));
            reply.add_answer(Record::from_rdata(owner, 300, data));
            (owner, target) = (next, ALIAS.1);
        }
        let Some(addresses) = self.addresses(target) else {
            reply.metadata.response_code = ResponseCode::NXDomain;
            return Some(reply);
        };
        for address in &*addresses {
            let data = match (address, kind) {
                (IpAddr::V4(v4), RecordType::A) => RData::A((*v4).into()),
                (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA((*v6).into()),
                _ => continue, // the name exists, this type of it does not: NODATA
            };
            reply.add_answer(Record::from_rdata(owner.clone(), 300, data));
        }
        Some(reply)
    }
}

async fn answer_datagrams(socket: UdpSocket, zone: Arc<Zone>) {
    const LIMIT: usize = 1232;
    let Ok(server) = socket.local_addr() else {
        return;
    };
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Some(reply) = zone.answer(&buffer[..length], server, "udp") else {
            continue;
        };
        let Ok(mut bytes) = reply.to_vec() else {
            continue;
        };
        if bytes.len() > LIMIT {
            let Ok(truncated) = reply.truncate().to_vec() else {
                continue;
            };
            bytes = truncated;
        }
        let _ = socket.send_to(&bytes, client).await; // a lost datagram, as on any network
    }
}

async fn answer_connections(listener: TcpListener, zone: Arc<Zone>) {
    while let Ok((stream, _)) = listener.accept().await {
        let zone = Arc::clone(&zone);
        tokio::spawn(async move { answer_connection(stream, &zone).await });
    }
}

async fn answer_connection(mut stream: TcpStream, zone: &Zone) -> Option<()> {
    let server = stream.local_addr().ok()?;
    loop {
        let query = netguard_dns::read_framed(&mut stream).await.ok()?;
        let reply = zone.answer(&query, server, "tcp")?.to_vec().ok()?;
        netguard_dns::write_framed(&mut stream, &reply).await.ok()?;
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
    let page = match HOSTS.iter().find(named) {
        Some((name, ..)) => format!("this is {name}, in the lab's internet\n"),
        None => format!("this is {server}, in the lab's internet\n"),
    };
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
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

//! The load generator: one thread that keeps a fixed number of queries in flight, and looks at every answer.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    batch::{BATCH, Batch},
    names::Query,
};

/// How many sockets ask at once, unless a load says otherwise: as load generators and forwarding resolvers do.
pub const SOCKETS: usize = 8;
/// How many queries are in flight, whatever the number of sockets: as many fit a server's receive buffer as Linux sizes it
/// (net.core.rmem_default, 208 KiB; a short datagram takes 768 bytes of it).
pub const IN_FLIGHT: usize = 128;
/// How many of them one socket can have.
const WINDOW: usize = IN_FLIGHT / SOCKETS;
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often lost answers are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const _: () = assert!(WINDOW <= BATCH && WINDOW.is_power_of_two());

/// What came of one measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Answers as the policy demands.
    pub right: u64,
    /// Answers to what was asked, but not as the policy demands.
    pub wrong: u64,
    /// Queries without an answer.
    pub lost: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// What the server has worked, all its threads together.
    pub cpu: Duration,
    /// What the load generator has worked.
    pub own_cpu: Duration,
}

impl Counted {
    /// Thousands of right answers a second.
    pub fn kqps(&self) -> f64 {
        self.right as f64 / self.elapsed.as_secs_f64() / 1e3
    }

    /// Microseconds of processor for each right answer.
    pub fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.right as f64
    }

    /// What each of them took of the load generator.
    pub fn own_cpu_us(&self) -> f64 {
        self.own_cpu.as_secs_f64() * 1e6 / self.right as f64
    }
}

/// Puts the queries, which are in order of length, to a server: first to warm up, then to measure. Also says how many
/// were answered in all.
pub fn measure(
    queries: &[Query],
    sockets: usize,
    address: SocketAddr,
    server: u32,
    [warm_up, duration]: [Duration; 2],
) -> Result<(Counted, u64)> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(server)?))
        .context("the server has ended")?;
    let mut generator = Generator::new(queries, sockets, address)?;
    generator.drive(Instant::now() + warm_up)?;
    let before = generator.counted;

    let own = ClockId::CLOCK_THREAD_CPUTIME_ID;
    let (cpu, own_cpu, started) = (cpu_time(clock)?, cpu_time(own)?, Instant::now());
    generator.drive(started + duration)?;
    let (elapsed, cpu) = (started.elapsed(), cpu_time(clock)?.saturating_sub(cpu));
    let own_cpu = cpu_time(own)?.saturating_sub(own_cpu);
    let after = generator.counted;
    generator.drain()?;
    let all = generator.counted;
    let counted = Counted {
        right: after.right - before.right,
        wrong: after.wrong - before.wrong,
        lost: after.lost - before.lost,
        elapsed,
        cpu,
        own_cpu,
    };
    Ok((counted, all.right + all.wrong))
}

fn cpu_time(clock: ClockId) -> Result<Duration> {
    Ok(clock_gettime(clock).context("the server has ended")?.into())
}

/// Asks for every name once and waits for each answer, until the server gives the right one: it is up, it keeps
/// the policy, and what it may cache it has cached.
pub fn warm(queries: &[Query], address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let socket = connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = [0; 4096];
    for (id, query) in queries.iter().enumerate() {
        let id = (id as u16).to_be_bytes();
        let mut wire = query.wire.clone();
        wire[..2].copy_from_slice(&id);
        loop {
            let answered = socket.send(&wire).and_then(|_| socket.recv(&mut bytes));
            let answer = &bytes[..*answered.as_ref().unwrap_or(&0)];
            if answer.starts_with(&id) && query.is_answered_by(answer) {
                break;
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "{address} does not answer as the policy demands: {answered:?} {answer:02x?} to {wire:02x?}"
            );
            if answered.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                // It is still starting; its core is needed for that.
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    Ok(())
}

fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(address)?;
    Ok(socket)
}

/// Guests that never tire.
struct Generator<'a> {
    queries: &'a [Query],
    /// For each query where those of its length stand: they can be sent together.
    alike: Vec<Range<usize>>,
    guests: Vec<Guest>,
    /// How many queries each of them has in flight.
    window: usize,
    random: SmallRng,
    counted: Counted,
    /// What is received into and sent from.
    answers: Batch,
    asking: Batch,
}

/// One socket and what it has asked. An id's lower bits say where the query stands in `asked`.
struct Guest {
    socket: UdpSocket,
    asked: [Asked; WINDOW],
}

#[derive(Clone, Copy)]
struct Asked {
    id: u16,
    /// Which of the queries.
    query: usize,
    at: Instant,
    /// No answer yet.
    open: bool,
}

impl<'a> Generator<'a> {
    fn new(queries: &'a [Query], sockets: usize, address: SocketAddr) -> Result<Self> {
        let nothing = |index| Asked { id: index as u16, query: 0, at: Instant::now(), open: false };
        let guests = (0..sockets)
            .map(|_| Ok(Guest { socket: connect(address)?, asked: std::array::from_fn(nothing) }));
        let alike = queries.chunk_by(|a, b| a.wire.len() == b.wire.len());
        let alike = alike.scan(0, |start, chunk| {
            let range = *start..*start + chunk.len();
            *start = range.end;
            Some(std::iter::repeat_n(range, chunk.len()))
        });
        Ok(Self {
            queries,
            alike: alike.flatten().collect(),
            guests: guests.collect::<Result<_>>()?,
            window: IN_FLIGHT / sockets,
            random: SmallRng::seed_from_u64(1),
            counted: Counted::default(),
            answers: Batch::new(),
            asking: Batch::new(),
        })
    }

    /// Keeps all windows full until then.
    fn drive(&mut self, end: Instant) -> Result<()> {
        let mut now = Instant::now();
        let mut look = now;
        while now < end {
            for guest in 0..self.guests.len() {
                self.receive(guest)?;
                self.ask(guest, now)?;
            }
            now = Instant::now();
            if now >= look {
                self.give_up(now);
                look = now + LOOK_EVERY;
            }
        }
        Ok(())
    }

    /// Waits for what is still in flight.
    fn drain(&mut self) -> Result<()> {
        while self.guests.iter().flat_map(|guest| &guest.asked).any(|asked| asked.open) {
            for guest in 0..self.guests.len() {
                self.receive(guest)?;
            }
            self.give_up(Instant::now());
        }
        Ok(())
    }

    fn receive(&mut self, guest: usize) -> Result<()> {
        let guest = &mut self.guests[guest];
        self.answers.receive(&guest.socket, WINDOW).context("the server is gone")?;
        for answer in self.answers.datagrams() {
            let Some(id) = answer.first_chunk().map(|id| u16::from_be_bytes(*id)) else { continue };
            let asked = &mut guest.asked[usize::from(id) % WINDOW];
            if !asked.open || asked.id != id {
                continue; // Counted as lost when it was late.
            }
            asked.open = false;
            if self.queries[asked.query].is_answered_by(answer) {
                self.counted.right += 1;
            } else {
                self.counted.wrong += 1;
            }
        }
        Ok(())
    }

    /// Asks for random names: the first is any, the others are of its length. So each is asked for as often as any other.
    fn ask(&mut self, guest: usize, now: Instant) -> Result<()> {
        let guest = &mut self.guests[guest];
        self.asking.clear();
        let mut among = 0..self.queries.len();
        for asked in guest.asked[..self.window].iter_mut().filter(|asked| !asked.open) {
            let query = self.random.random_range(among);
            among = self.alike[query].clone();
            let id = asked.id.wrapping_add(WINDOW as u16);
            *asked = Asked { id, query, at: now, open: true };
            let wire = self.asking.push(&self.queries[query].wire);
            wire[..2].copy_from_slice(&id.to_be_bytes());
        }
        self.asking.send(&guest.socket).context("the server is gone")
    }

    fn give_up(&mut self, now: Instant) {
        for asked in self.guests.iter_mut().flat_map(|guest| &mut guest.asked) {
            if asked.open && now.duration_since(asked.at) > PATIENCE {
                asked.open = false;
                self.counted.lost += 1;
            }
        }
    }
}

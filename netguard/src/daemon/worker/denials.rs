//! Queries that the kernel's programs have denied, on their way to the log: a thread of its own reads them, so that a flood of them keeps
//! nothing else waiting.

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use netguard_dns::{Denied, Moment, Resolver};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::{EfdFlags, EventFd},
};

use crate::datapath::DenialStream;

/// From the first record that comes until it is read. The kernel wakes the thread for that one only, so many come together.
const GATHER: Duration = Duration::from_millis(5);
/// How many are read before it is asked whether this is over.
const AT_ONCE: usize = 16384;
/// After an error of epoll itself, so that one that lasts costs no processor.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// The thread; it ends with this.
pub(super) struct Denials {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Denials {
    pub(super) fn start(stream: DenialStream, resolver: &Arc<Resolver>) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*stop, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
        let (stopping, denied) = (Arc::clone(&stop), Denied::new(Arc::clone(resolver)));
        let thread = std::thread::Builder::new().name("dns-denials".to_owned());
        let thread = thread.spawn(move || read(&epoll, &stopping, stream, denied))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Denials {
    fn drop(&mut self) {
        let _ = self.stop.write(1); // a full counter wakes too
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // one that has panicked has said so
        }
    }
}

fn read(epoll: &Epoll, stop: &EventFd, mut stream: DenialStream, mut denied: Denied) {
    let mut events = [EpollEvent::empty(); 2];
    let mut has_more = false;
    loop {
        let wait = denied.flush(Moment::now()).map(|wait| wait + Duration::from_millis(1));
        let wait = if has_more { Some(Duration::ZERO) } else { wait };
        let wait = wait.and_then(|wait| EpollTimeout::try_from(wait).ok());
        match epoll.wait(&mut events, wait.unwrap_or(EpollTimeout::NONE)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) if !has_more => continue,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                log::error!("waiting for denied queries: {error}");
                std::thread::sleep(AFTER_ERROR);
            }
        }
        let is_over = stop.read().is_ok();
        if !is_over && !has_more {
            std::thread::sleep(GATHER);
        }
        let mut next = || stream.next_ready(|denial, name| denied.write(denial, name));
        has_more = (0..AT_ONCE).all(|_| next());
        if is_over {
            denied.flush_now();
            return;
        }
    }
}

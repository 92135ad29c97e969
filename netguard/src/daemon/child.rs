//! The worker as the monitor sees it: the other end of a channel, which answers what it is told, and ends.

use std::{
    collections::VecDeque, io, os::fd::OwnedFd, process::ExitStatus, sync::Arc, time::Duration,
};

use tokio::{
    process::Child,
    time::{Instant, sleep_until, timeout},
};

use super::{
    channel::{Channel, Received, ToMonitor, ToWorker},
    workers::Newcomer,
};

/// How long a worker may take to say that it is there: a million names are read in a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a worker that is asked to end may take to write its last lines.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long to wait before the next worker, if the last one has not lived for long.
const BREATH: Duration = Duration::from_millis(500);

/// A running worker.
pub(super) struct Worker {
    /// None if it is somebody else's child.
    process: Option<Child>,
    channel: Arc<Channel>,
    born: Instant,
    /// What it said while it was waited for something else.
    said: VecDeque<ToMonitor>,
}

/// What came of something that the worker was told.
#[derive(Default)]
pub(super) struct Done {
    /// What is not in force.
    pub(super) failed: Vec<String>,
    /// How many pins are gone.
    pub(super) unpinned: usize,
}

/// What happened on the worker's side.
pub(super) enum Happened {
    /// It says something.
    Said(ToMonitor),
    /// It has ended; the next one may come.
    Ended(String),
}

impl Worker {
    /// Tells a worker that has just come the first things and waits until they are in force.
    pub(super) async fn begin(
        newcomer: Newcomer,
        begin: &ToWorker,
        descriptors: &[OwnedFd],
    ) -> io::Result<Self> {
        let Newcomer { channel, process } = newcomer;
        let channel = Arc::new(channel);
        let mut worker = Self { process, channel, born: Instant::now(), said: VecDeque::new() };
        worker.tell(begin, descriptors).await?;
        worker.done().await?;
        Ok(worker)
    }

    /// Tells the worker something.
    pub(super) async fn tell(
        &mut self,
        message: &ToWorker,
        descriptors: &[OwnedFd],
    ) -> io::Result<()> {
        self.channel.send(message, descriptors).await
    }

    /// The way to tell it something from beside the monitor's loop.
    pub(super) fn channel(&self) -> Arc<Channel> {
        Arc::clone(&self.channel)
    }

    /// Tells the worker something and waits until it is in force. Returns what came of it.
    pub(super) async fn tell_and_wait(&mut self, message: &ToWorker) -> io::Result<Done> {
        self.tell(message, &[]).await?;
        self.done().await
    }

    /// Has it make the sockets for one address and so many threads.
    pub(super) async fn sockets(&mut self, v6: bool, threads: usize) -> io::Result<Vec<OwnedFd>> {
        self.made(&ToWorker::Make { v6, threads }).await
    }

    /// Has it make the socket for a stream.
    pub(super) async fn stream_socket(&mut self, v6: bool) -> io::Result<OwnedFd> {
        let other = || io::Error::other("the worker answers something else");
        let made = self.made(&ToWorker::MakeStream { v6 }).await?;
        let [socket] = <[OwnedFd; 1]>::try_from(made).map_err(|_| other())?;
        Ok(socket)
    }

    async fn made(&mut self, what: &ToWorker) -> io::Result<Vec<OwnedFd>> {
        self.tell(what, &[]).await?;
        match self.answer().await? {
            (ToMonitor::Made, sockets) => {
                // A socket stays bound as long as anybody has it: only then they are the monitor's alone.
                self.done().await?;
                Ok(sockets)
            }
            _ => Err(io::Error::other("the worker answers something else")),
        }
    }

    /// Waits for the word that what was told is in force. Returns what came of it.
    async fn done(&mut self) -> io::Result<Done> {
        match self.answer().await? {
            (ToMonitor::Done { failed, unpinned }, _) => Ok(Done { failed, unpinned }),
            _ => Err(io::Error::other("the worker answers something else")),
        }
    }

    /// Waits for the answer to what was told. What the worker refuses is an error, and so is its end, of the kind
    /// [`io::ErrorKind::BrokenPipe`].
    async fn answer(&mut self) -> io::Result<Received<ToMonitor>> {
        loop {
            let received = timeout(PATIENCE, self.channel.receive()).await?;
            match received? {
                Some((ToMonitor::Refused { reason }, _)) => return Err(io::Error::other(reason)),
                Some(answer @ (ToMonitor::Done { .. } | ToMonitor::Made, _)) => return Ok(answer),
                Some((other, _)) => self.said.push_back(other),
                None => {
                    let message = format!("the worker {}", self.end().await);
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, message));
                }
            }
        }
    }

    /// How it has ended.
    async fn end(&mut self) -> String {
        match &mut self.process {
            Some(process) => process.wait().await.map_or_else(|it| it.to_string(), describe),
            None => "has hung up".to_owned(),
        }
    }

    /// Waits until something happens. Whoever stops waiting loses nothing.
    pub(super) async fn happens(&mut self) -> Happened {
        if let Some(said) = self.said.pop_front() {
            return Happened::Said(said);
        }
        match self.channel.receive().await {
            Ok(Some((said, _))) => return Happened::Said(said),
            Ok(None) => {}
            // It may go on, but nobody could trust it.
            Err(_) => self.kill(),
        }
        let ended = self.end().await;
        sleep_until(self.born + BREATH).await;
        Happened::Ended(ended)
    }

    /// Ends it, whatever it does; one that is somebody else's child is left to him.
    pub(super) fn kill(&mut self) {
        match &mut self.process {
            Some(process) => drop(process.start_kill()), // it has ended by itself
            None => self.channel.hang_up(),
        }
    }

    /// Lets it write its last lines.
    pub(super) async fn finish(self) {
        let Self { process, channel, .. } = self;
        drop(channel); // it ends when nobody speaks to it any more
        if let Some(mut process) = process
            && timeout(LAST_WORDS, process.wait()).await.is_err()
        {
            let _ = process.start_kill(); // it has ended by itself
        }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;

    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, code) => format!("ended with code {}", code.unwrap_or_default()),
    }
}

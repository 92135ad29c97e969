//! The worker as the monitor sees it: started from this very binary, and started again when it has died.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::{Instant, sleep_until, timeout},
};

use super::{
    channel::{Channel, HostView, PolicyText, ToMonitor, ToWorker},
    overlay::Overlay,
};

/// How long a worker may take to say that it is there: a million names are read in a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a worker that is asked to end may take to write its last lines.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long to wait before the next worker, if the last one has not lived for long.
const BREATH: Duration = Duration::from_millis(500);

/// A running worker.
pub(super) struct Worker {
    process: Child,
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
    /// It has ended; the next one may be started.
    Ended(String),
}

impl Worker {
    /// Starts a worker, tells it the first things and waits until they are in force.
    pub(super) async fn start(
        json: bool,
        policy: PolicyText,
        overlay: Overlay,
        host: HostView,
        descriptors: &[OwnedFd],
    ) -> io::Result<Self> {
        let (channel, other) = Channel::pair()?;
        let process = Command::new("/proc/self/exe")
            .arg("worker")
            .stdin(Stdio::from(other))
            .kill_on_drop(true)
            .spawn()?;
        let channel = Arc::new(channel);
        let mut worker = Self { process, channel, born: Instant::now(), said: VecDeque::new() };
        let begin = ToWorker::Begin { json, policy, overlay, host };
        worker.tell(&begin, descriptors).await?;
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

    /// Waits for the word that what was told is in force. Returns what came of it.
    async fn done(&mut self) -> io::Result<Done> {
        loop {
            let received = timeout(PATIENCE, self.channel.receive()).await?;
            match received? {
                Some((ToMonitor::Done { failed, unpinned }, _)) => {
                    return Ok(Done { failed, unpinned });
                }
                Some((ToMonitor::Refused { reason }, _)) => return Err(io::Error::other(reason)),
                Some((other, _)) => self.said.push_back(other),
                None => {
                    let status = self.process.wait().await?;
                    return Err(io::Error::other(format!("the worker {}", describe(status))));
                }
            }
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
            Err(_) => drop(self.process.start_kill()),
        }
        let ended = self.process.wait().await.map(describe).unwrap_or_else(|it| it.to_string());
        sleep_until(self.born + BREATH).await;
        Happened::Ended(ended)
    }

    /// Ends it, whatever it does.
    pub(super) fn kill(&mut self) {
        let _ = self.process.start_kill(); // it has ended by itself
    }

    /// Lets it write its last lines.
    pub(super) async fn finish(self) {
        let Self { mut process, channel, .. } = self;
        drop(channel); // it ends when nobody speaks to it any more
        if timeout(LAST_WORDS, process.wait()).await.is_err() {
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

//! `netguard top`: a running daemon on a terminal's screen. What the daemon says (`sample`) and the keys that are pressed make
//! a `screen`, which is drawn (`draw`); only this file does I/O.

mod draw;
mod sample;
#[cfg(test)]
mod samples;
mod screen;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event},
};
use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{Receiver, Sender, channel},
    time::{MissedTickBehavior, interval},
};

use self::{
    sample::Sample,
    screen::{Screen, Seen},
};
use crate::{control, datapath, instance::Instance};

/// How often the daemon is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// How often the screen is drawn at most.
const DRAWN_EACH: Duration = Duration::from_millis(100);
/// How long a feed that has ended is left alone.
const AGAIN: Duration = Duration::from_secs(2);
/// How much of what was before the screen shows.
const REMEMBERED: usize = 50;
/// How many pieces of news may wait to be shown.
const WAITING_MAX: usize = 1024;

/// Why there is no screen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody would see it.
    #[error("top needs a terminal; `netguard status` and `netguard drops` print into pipes")]
    NoTerminal,
    /// The terminal refuses.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// The daemon does not answer.
    #[error(transparent)]
    Daemon(#[from] control::Error),
}

/// What happens.
enum News {
    Typed(Event),
    Status(Result<Value, control::Error>, Instant),
    Dropped(Value),
    Asked(Value),
}

/// Shows an instance until somebody ends it.
///
/// # Errors
///
/// No daemon runs, or there is no terminal.
pub async fn run(instance: &Instance) -> Result<(), Error> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Error::NoTerminal);
    }
    // Who may not, sees no costs. The kernel measures as long as this lives.
    let _measuring = datapath::measure_programs();
    let began = Instant::now();
    let status = control::status(instance).await?;
    let (tell, news) = channel(WAITING_MAX);
    let mut screen = Screen::default();
    screen.take_sample(Sample::read(&status, began.elapsed()));
    let tasks = [
        tokio::spawn(ask(instance.clone(), tell.clone())),
        tokio::spawn(follow(instance.clone(), "drops", "", tell.clone(), News::Dropped)),
        tokio::spawn(follow(instance.clone(), "dns", "&side=denied", tell.clone(), News::Asked)),
    ];
    std::thread::spawn(move || listen(&tell));
    let mut terminal = ratatui::try_init().map_err(Error::Terminal)?;
    let shown = show(&mut terminal, &mut screen, news, began).await;
    ratatui::restore();
    for task in tasks {
        task.abort();
    }
    shown.map_err(Error::Terminal)
}

async fn show(
    terminal: &mut DefaultTerminal,
    screen: &mut Screen,
    mut news: Receiver<News>,
    began: Instant,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut due = interval(DRAWN_EACH);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_other = true;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            _ = due.tick(), if is_other => {
                terminal.draw(|frame| draw::screen(screen, frame))?;
                is_other = false;
            }
            told = news.recv() => {
                is_other = true;
                match told {
                    None => return Ok(()),
                    Some(News::Typed(Event::Key(key))) => {
                        if !screen.press(key) {
                            return Ok(());
                        }
                    }
                    Some(News::Typed(_)) => {} // another size: it is drawn anew
                    Some(News::Status(Ok(status), at)) => {
                        screen.take_sample(Sample::read(&status, at.saturating_duration_since(began)));
                    }
                    Some(News::Status(Err(error), _)) => screen.trouble = Some(error.to_string()),
                    Some(News::Dropped(drop)) => screen.take_drop(Seen::read(&drop)),
                    Some(News::Asked(query)) => {
                        let text = |key: &str| query[key].as_str().unwrap_or("-").to_owned();
                        screen.take_denied(text("name"), text("slot"));
                    }
                }
            }
        }
    }
}

/// Hands over what is typed. Ends with the terminal, or when nobody wants it any more.
fn listen(tell: &Sender<News>) {
    while let Ok(event) = event::read() {
        if tell.blocking_send(News::Typed(event)).is_err() {
            return;
        }
    }
}

/// Asks the daemon how it is, once in a while.
async fn ask(instance: Instance, tell: Sender<News>) {
    let mut due = interval(PERIOD);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    due.tick().await;
    loop {
        due.tick().await;
        let status = control::status(&instance).await;
        if tell.send(News::Status(status, Instant::now())).await.is_err() {
            return;
        }
    }
}

/// Follows a feed of the daemon, and its successor's when it ends. What is too much to be shown is left out.
async fn follow(
    instance: Instance,
    feed: &str,
    condition: &str,
    tell: Sender<News>,
    news: fn(Value) -> News,
) {
    let mut last = REMEMBERED;
    while !tell.is_closed() {
        let mut rest = Vec::new();
        let take = |piece: &[u8]| {
            rest.extend_from_slice(piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = rest.drain(..=end).collect();
                if let Ok(item) = serde_json::from_slice::<Value>(&line)
                    && (item["event"] == "drop" || item["event"] == "dns")
                {
                    // Nobody can read so fast.
                    let _ = tell.try_send(news(item));
                }
            }
            Ok(())
        };
        // Whatever has ended it, the status says what is wrong.
        let path = format!("/v1/{feed}?follow=true&format=json&last={last}{condition}");
        let _ = control::follow(&instance, &path, take).await;
        tokio::time::sleep(AGAIN).await;
        last = 0;
    }
}

//! What only the daemon can tell of itself: since when it runs, and how its reloads and its workers went.

use std::time::SystemTime;

use serde_json::{Value, json};

/// Since the daemon began.
#[derive(Debug)]
pub(super) struct Account {
    since: SystemTime,
    reload: Option<Reload>,
    /// How often a worker was started in the place of one that had died.
    pub(super) worker_restarts: u64,
}

/// The latest reload.
#[derive(Debug)]
struct Reload {
    at: SystemTime,
    became: Became,
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// Its policy is in force.
    InForce,
    /// Nothing has changed, for this reason.
    Refused(String),
    /// Nobody has confirmed it, so the policy before is in force again.
    TakenBack,
}

impl Account {
    pub(super) fn begin() -> Self {
        Self { since: SystemTime::now(), reload: None, worker_restarts: 0 }
    }

    pub(super) fn reloaded(&mut self, became: Became) {
        self.reload = Some(Reload { at: SystemTime::now(), became });
    }

    pub(super) fn json(&self) -> Value {
        let time = |time| humantime::format_rfc3339_millis(time).to_string();
        let reload = self.reload.as_ref().map(|Reload { at, became }| {
            let (result, error) = match became {
                Became::InForce => ("in force", None),
                Became::Refused(why) => ("refused", Some(why)),
                Became::TakenBack => ("taken back", None),
            };
            json!({ "time": time(*at), "result": result, "error": error })
        });
        json!({
            "since": time(self.since),
            "reload": reload,
            "worker_restarts": self.worker_restarts,
        })
    }
}

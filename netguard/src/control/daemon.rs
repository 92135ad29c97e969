//! What requests are about: the daemon as the worker has it, what can be followed, and how a request is refused.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use netguard_common::SlotId;
use netguard_dns::{Pins, Resolver};
use serde_json::{Value, json};

use super::Names;
use crate::{
    daemon::{Fault, Order, Orders, Refusal},
    drops::Drop,
    events::Event,
    feed::Feed,
    journal::Journal,
    pinned::NoSlot,
    queries,
    suggest::Learnt,
};

/// What orders are about.
#[derive(Clone)]
pub struct Daemon {
    pub(super) pins: Arc<Pins>,
    names: Arc<ArcSwap<Names>>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) learnt: Arc<Learnt>,
    pub(super) orders: Orders,
    pub(super) feeds: Feeds,
    pub(super) journal: Journal,
}

/// What can be followed.
#[derive(Clone, Default)]
pub struct Feeds {
    /// Dropped packets.
    pub drops: Feed<Drop>,
    /// Queries and what they got.
    pub queries: Feed<queries::Entry>,
    /// What happens to netguard itself.
    pub events: Feed<Event>,
}

impl Feeds {
    /// Forgets what slots that are gone have done.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.drops.keep(&is_there);
        self.queries.keep(is_there);
    }
}

/// What is wrong with an order.
pub(super) struct Wrong {
    status: StatusCode,
    words: String,
}

impl Wrong {
    pub(super) fn new(status: StatusCode, words: impl ToString) -> Self {
        Self { status, words: words.to_string() }
    }

    pub(super) fn bad(words: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, words)
    }
}

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.words }))).into_response()
    }
}

impl From<NoSlot> for Wrong {
    fn from(error: NoSlot) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }
}

impl From<Refusal> for Wrong {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.fault {
            Fault::Order => StatusCode::BAD_REQUEST,
            Fault::Absent => StatusCode::NOT_FOUND,
            Fault::Conflict => StatusCode::CONFLICT,
            Fault::Host => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, refusal.message)
    }
}

impl Daemon {
    /// That worker's.
    #[must_use]
    pub fn new(
        pins: Arc<Pins>,
        names: Names,
        resolver: Arc<Resolver>,
        learnt: Arc<Learnt>,
        orders: Orders,
        feeds: Feeds,
        journal: Journal,
    ) -> Self {
        let names = Arc::new(ArcSwap::from_pointee(names));
        Self { pins, names, resolver, learnt, orders, feeds, journal }
    }

    pub(super) fn names(&self) -> Arc<Names> {
        self.names.load_full()
    }

    pub(super) fn replace_names(&self, names: Names) {
        self.names.store(Arc::new(names));
    }

    pub(super) async fn give(&self, order: Order) -> Result<Json<Value>, Wrong> {
        Ok(Json(self.orders.give(order).await?))
    }

    /// What the kernel holds and counts, and how the daemon is, as far as the monitor knows it; and how many pins slots have.
    pub(super) async fn status(&self) -> Result<Value, Wrong> {
        let Json(mut status) = self.give(Order::Status).await?;
        let counts = self.pins.counts();
        for slot in status["slots"].as_array_mut().into_iter().flatten() {
            let id = slot["id"].as_u64().and_then(|id| SlotId::try_from(id).ok());
            slot["pins"] = id.map(|id| counts.get(&id).copied().unwrap_or_default()).into();
        }
        Ok(status)
    }

    /// Runs what asks the kernel beside the runtime's own threads.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Pins) -> T + Send + 'static,
    ) -> Result<T, Wrong> {
        let pins = Arc::clone(&self.pins);
        let asked = tokio::task::spawn_blocking(move || ask(&pins)).await;
        asked.map_err(|error| Wrong::new(StatusCode::INTERNAL_SERVER_ERROR, error))
    }
}

//! From the control socket's tasks to the worker's loop: what is wanted, and the way back of the answer.

use tokio::sync::{mpsc, oneshot};

use super::{Answer, CarriedPin, Fault, Order, Refusal, Weighed};

/// How many may wait for the loop.
const ORDERS_MAX: usize = 64;

/// What somebody wants, and where the answer goes.
pub type Asked = (Wanted, oneshot::Sender<Answer>);

/// What somebody at the control socket wants of the loop.
#[derive(Debug)]
pub enum Wanted {
    /// That the monitor carries an order out.
    Order(Order),
    /// That a slot takes over what another one had pinned.
    Pins(String, Vec<CarriedPin>),
    /// What decides about a packet.
    Because(Weighed),
}

/// Hands orders to the monitor; cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Asked>);

impl Orders {
    /// Orders, and where they come out with the places for their answers.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Asked>) {
        let (give, orders) = mpsc::channel(ORDERS_MAX);
        (Self(give), orders)
    }

    /// Has the monitor carry an order out.
    ///
    /// # Errors
    ///
    /// It refuses.
    pub async fn give(&self, order: Order) -> Answer {
        self.ask(Wanted::Order(order)).await
    }

    /// Has something done.
    ///
    /// # Errors
    ///
    /// It is refused.
    pub async fn ask(&self, wanted: Wanted) -> Answer {
        let gone = || Refusal::new(Fault::Host, "the daemon is ending");
        let (answer, answered) = oneshot::channel();
        self.0.send((wanted, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

//! Asking one upstream one question, in the way that it is to be asked.

use std::net::SocketAddr;

use hickory_proto::op::{Message, ResponseCode};

use super::{
    Transport, Upstream, plain,
    query::{Failure, Query},
    tls::{Channel, Config},
};
use crate::Question;

/// One upstream.
pub(super) struct Asker {
    address: SocketAddr,
    /// Over TLS; without it, plainly.
    channel: Option<Channel>,
}

impl Asker {
    pub(super) fn new(upstream: Upstream, tls: &Config) -> Self {
        let Upstream { address, transport } = upstream;
        let channel = match transport {
            Transport::Plain => None,
            Transport::Tls { name } => Some(Channel::new(address, name, tls)),
        };
        Self { address, channel }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A server that does not know OPT says so by an error, and is asked once more without (RFC 6891 section 7).
    pub(super) async fn ask(&self, question: &Question) -> Result<Box<Message>, Failure> {
        let answer = self.ask_once(&Query::new(question, true)?).await?;
        match answer.metadata.response_code {
            ResponseCode::FormErr | ResponseCode::NotImp => {
                self.ask_once(&Query::new(question, false)?).await
            }
            _ => Ok(answer),
        }
    }

    async fn ask_once(&self, query: &Query) -> Result<Box<Message>, Failure> {
        match &self.channel {
            None => plain::ask(self.address, query).await,
            Some(channel) => channel.ask(query).await,
        }
    }
}

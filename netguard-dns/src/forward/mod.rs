//! STUB
use crate::{Cache, Kept, Question};
use rustls_pki_types::CertificateDer;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
/// S
#[derive(Clone)]
pub struct Settings {
    /// a
    pub upstreams: Vec<Upstream>,
    /// a
    pub max_ttl: Duration,
    /// a
    pub is_public: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// a
    pub roots: Option<Vec<CertificateDer<'static>>>,
}
/// U
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// a
    pub address: SocketAddr,
    /// a
    pub transport: Transport,
}
/// T
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// a
    Plain,
    /// a
    Tls {
        /// a
        name: String,
    },
}
/// F
pub struct Forwarder;
impl Forwarder {
    /// a
    pub fn new(_s: Settings, _c: Arc<Cache>, _r: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self
    }
    /// a
    pub async fn answer(self: &Arc<Self>, _q: Question, _p: bool) -> Kept {
        unimplemented!()
    }
}

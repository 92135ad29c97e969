//! STUB
use crate::{Moment, Ports};
use netguard_common::SlotId;
use std::{io, net::IpAddr};
/// Pins.
#[derive(Default)]
pub struct Pins;
/// Error.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// F
    #[error("full")]
    Full,
    /// D
    #[error("denied")]
    Denied,
    /// K
    #[error("kernel")]
    Kernel(#[from] io::Error),
}
impl Pins {
    /// Pin.
    pub fn pin(
        &self,
        _: SlotId,
        _: &str,
        _: &[IpAddr],
        _: Option<&Ports>,
        _: Moment,
        _: Moment,
    ) -> Result<(), PinError> {
        Ok(())
    }
    /// Denied.
    pub fn is_denied(&self, _: SlotId, _: &str, _: Moment) -> bool {
        false
    }
}

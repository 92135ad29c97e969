//! STUB
use std::{fmt, str::FromStr};
/// Ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(String);
/// Bad.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad ports {0:?}")]
pub struct BadPorts(String);
impl FromStr for Ports {
    type Err = BadPorts;
    fn from_str(s: &str) -> Result<Self, BadPorts> {
        if s == "0" { Err(BadPorts(s.into())) } else { Ok(Self(s.into())) }
    }
}
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

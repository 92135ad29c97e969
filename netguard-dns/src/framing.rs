//! DNS messages on a TCP connection, each behind its length.

use std::io;

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Reads one message behind its two-byte length (RFC 1035 section 4.2.2).
///
/// # Errors
///
/// The connection ends or fails before the message is whole.
pub async fn read_framed(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one message behind its two-byte length, in one segment.
///
/// # Errors
///
/// The connection fails, or the message is longer than 65,535 bytes.
pub async fn write_framed(
    stream: &mut (impl AsyncWriteExt + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = BytesMut::with_capacity(message.len() + 2);
    framed.put_u16(length);
    framed.put_slice(message);
    stream.write_all(&framed).await
}

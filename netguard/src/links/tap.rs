//! TAP devices through `/dev/net/tun`: made to stay, or opened to carry frames.

use std::{fs::File, io, os::fd::AsRawFd as _};

use libc::c_int;

nix::ioctl_write_int!(tun_set_iff, b'T', 202);
nix::ioctl_write_int!(tun_set_persist, b'T', 203);

/// Every frame behind a virtio-net header, so that offloads cross.
const FLAGS: c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Makes a TAP with one queue that outlives this process. It is down and on no bridge.
pub(super) fn create(name: &str) -> io::Result<()> {
    let file = attach(name, FLAGS | libc::IFF_TUN_EXCL)?;
    // SAFETY: TUNSETPERSIST takes its argument by value.
    unsafe { tun_set_persist(file.as_raw_fd(), 1) }?;
    Ok(())
}

/// Opens a TAP, to read what the host sends through it and to write what the host shall receive.
///
/// # Errors
///
/// There is no `/dev/net/tun`, or the name is another kind of interface's.
pub fn open(name: &str) -> io::Result<File> {
    attach(name, FLAGS)
}

fn attach(name: &str, flags: c_int) -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an all-zero ifreq is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // All flags are of 16 bits; IFF_TUN_EXCL is the sign.
    let flags = u16::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    request.ifr_ifru.ifru_flags = flags.cast_signed();
    let address = &raw const request as libc::c_ulong;
    // SAFETY: TUNSETIFF reads an ifreq at the address, which lives until the call returns.
    unsafe { tun_set_iff(file.as_raw_fd(), address) }?;
    Ok(file)
}

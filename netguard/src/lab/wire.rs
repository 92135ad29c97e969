//! What QEMU's network card is to a TAP: frames copied between a port on the hypervisor and the
//! interface of the guest, offloads and all.
//!
//! Both ends are TAPs with a virtio-net header, so partial checksums and GSO super-frames cross
//! exactly as a virtual machine with offloads sends them.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd as _,
    sync::Arc,
};

use super::{Error, namespace};
use crate::links;

/// A GSO super-frame of 64 KiB behind its virtio-net header.
const FRAME_MAX: usize = 65536 + 64;
/// TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 (include/uapi/linux/if_tun.h).
const OFFLOADS: libc::c_ulong = 0x01 | 0x02 | 0x04;

nix::ioctl_write_int!(tun_set_offload, b'T', 208);

/// Connects two TAPs until the process ends.
pub(super) fn connect(
    (port_namespace, port): (&str, &str),
    (guest_namespace, guest): (&str, &str),
) -> Result<(), Error> {
    let port_end = Arc::new(namespace::within(port_namespace, || open(port))?);
    let guest_end = Arc::new(namespace::within(guest_namespace, || open(guest))?);
    for (from, to) in [(Arc::clone(&port_end), Arc::clone(&guest_end)), (guest_end, port_end)] {
        std::thread::Builder::new()
            .name("wire".to_owned())
            .spawn(move || copy(&from, &to))
            .map_err(Error::system("start a wire"))?;
    }
    Ok(())
}

fn copy(mut from: &File, mut to: &File) {
    let mut frame = vec![0; FRAME_MAX];
    loop {
        match from.read(&mut frame) {
            // A refused frame is lost, as on any wire: the other end may be down.
            Ok(length) => drop(to.write(&frame[..length])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return, // the device is gone, and with it the wire
        }
    }
}

fn open(device: &str) -> Result<File, Error> {
    let failed = |action: &str| Error::system(format!("{action} the TAP {device}"));
    let file = links::open_tap(device).map_err(failed("open"))?;
    // SAFETY: TUNSETOFFLOAD takes its flags by value.
    unsafe { tun_set_offload(file.as_raw_fd(), OFFLOADS) }
        .map_err(io::Error::from)
        .map_err(failed("set the offloads of"))?;
    Ok(file)
}

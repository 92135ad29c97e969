//! The file of a Unix socket that some may connect to: its owner and a group, and nobody else.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use nix::unistd::Gid;

/// Owner and group.
const MODE: u32 = 0o660;

/// Such a file, as long as this lives.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl SocketFile {
    /// Has `bind` make the socket, in the place of whatever an earlier process has left there, and gives it to the group: to the
    /// own one without.
    pub(crate) fn make<T>(
        path: &Path,
        group: Option<Gid>,
        bind: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        // Under another name until only those can connect who may.
        let fresh = path.with_extension("new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = bind(&fresh)?;
        fs::set_permissions(&fresh, Permissions::from_mode(MODE))?;
        let group =
            group.filter(|group| fs::metadata(&fresh).is_ok_and(|it| it.gid() != group.as_raw()));
        if let Some(group) = group {
            chown(&fresh, None, Some(group.as_raw()))?;
        }
        fs::rename(&fresh, path)?;
        Ok((Self(path.to_path_buf()), listener))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A socket that stays refuses callers, and the next process replaces it.
        let _ = fs::remove_file(&self.0);
    }
}

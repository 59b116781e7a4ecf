//! The operating system's account for servers: `initdb` and `postgres` refuse to run as root.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::PostgresError;

/// The user that servers run as when we are root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// The account for servers: `None` unless this process is root, else `postgres`, else `nobody`.
    ///
    /// # Errors
    /// This process is root and `/etc/passwd` names neither.
    pub fn for_servers() -> Result<Option<Self>, PostgresError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let path = Path::new("/etc/passwd");
        let passwd = std::fs::read_to_string(path).map_err(PostgresError::io("read", path))?;
        let account = ["postgres", "nobody"].iter().find_map(|name| Self::in_passwd(&passwd, name));
        account.map(Some).ok_or(PostgresError::NoAccount)
    }

    fn in_passwd(passwd: &str, name: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then_some(())?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { name: name.to_owned(), uid, gid })
        })
    }

    /// Gives a file or directory to this account.
    pub fn own(&self, path: &Path) -> Result<(), PostgresError> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).map_err(PostgresError::io("change the owner of", path))
    }

    /// The uppermost directory above `dir` that this account may not enter, judged by owner and mode bits.
    pub fn first_closed_ancestor(&self, dir: &Path) -> Option<PathBuf> {
        let absolute = std::path::absolute(dir).ok()?;
        let mut above: Vec<&Path> = absolute.ancestors().skip(1).collect();
        above.reverse();
        above.into_iter().find(|ancestor| !self.may_enter(ancestor)).map(Path::to_owned)
    }

    fn may_enter(&self, dir: &Path) -> bool {
        let Ok(metadata) = std::fs::metadata(dir) else { return true };
        let bit = match (metadata.uid() == self.uid, metadata.gid() == self.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        metadata.mode() & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_ids_in_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        let account = Account { name: "postgres".into(), uid: 101, gid: 104 };
        assert_eq!(Account::in_passwd(passwd, "postgres"), Some(account));
        assert_eq!(Account::in_passwd(passwd, "nobody"), None);
    }
}

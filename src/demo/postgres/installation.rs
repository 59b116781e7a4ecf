//! Finding Postgres's programs and running the short ones.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{Account, PostgresError, SUPERUSER, Server, make_data_dir};

const OLDEST_VERSION: u32 = 14;
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";
/// Programs without which nothing here works.
const NEEDED: &[&str] = &["initdb", "postgres", "pg_basebackup"];

/// How users of a new cluster log in over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    Trust,
    /// SCRAM-SHA-256; the superuser's password.
    Scram {
        password: String,
    },
}

/// The programs of one Postgres version, and the account to run them as.
#[derive(Debug, Clone)]
pub struct Installation {
    pub bin_dir: PathBuf,
    /// Major version.
    pub version: u32,
    pub account: Option<Account>,
}

impl Installation {
    /// Looks where `pg_config --bindir` says, along `PATH`, and in Debian's directories, newest first.
    ///
    /// # Errors
    /// `NotInstalled`, or `NoAccount` under root.
    pub fn find() -> Result<Self, PostgresError> {
        let account = Account::for_servers()?;
        let found = candidate_dirs().into_iter().find_map(|dir| Some((version_in(&dir)?, dir)));
        let (version, bin_dir) = found.ok_or(PostgresError::NotInstalled)?;
        Ok(Self { bin_dir, version, account })
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Makes a cluster in `data_dir`, which must be absent or empty: locale C, UTF-8, superuser [`SUPERUSER`].
    ///
    /// Does not wait for the disk. Not cancel safe: a dropped call leaves a half-made directory.
    pub async fn initdb(&self, data_dir: &Path, login: &Login) -> Result<(), PostgresError> {
        make_data_dir(self.account.as_ref(), data_dir)?;
        let mut arguments = vec!["--no-sync", "--locale=C", "--encoding=UTF8", "--wal-segsize=4", "-U", SUPERUSER];
        let password_file = data_dir.with_extension("pw");
        let password_path = password_file.to_string_lossy().into_owned();
        match login {
            Login::Trust => arguments.extend(["--auth=trust"]),
            Login::Scram { password } => {
                self.write_owned(&password_file, password)?;
                arguments.extend(["--auth=scram-sha-256", "--pwfile", &password_path]);
            }
        }
        let made = self.run("initdb", &arguments, data_dir).await;
        if password_file.exists() {
            std::fs::remove_file(&password_file).map_err(PostgresError::io("remove", &password_file))?;
        }
        made
    }

    /// Makes a streaming replica of `primary` in `data_dir`, which must be absent or empty. The primary must let
    /// [`SUPERUSER`] in without a password. Not cancel safe, as [`Self::initdb`].
    pub async fn base_backup(&self, primary: &Server, data_dir: &Path) -> Result<(), PostgresError> {
        make_data_dir(self.account.as_ref(), data_dir)?;
        let port = primary.port().to_string();
        let arguments = ["-h", "127.0.0.1", "-p", &port, "-U", SUPERUSER, "-R", "-X", "stream", "-c", "fast", "--no-sync"];
        self.run("pg_basebackup", &arguments, data_dir).await
    }

    /// Copies the cluster of a stopped server, with its owner and modes.
    pub async fn copy_cluster(&self, from: &Path, to: &Path) -> Result<(), PostgresError> {
        let output = tokio::process::Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).output().await;
        checked("cp", output.map_err(PostgresError::io("copy", from))?)
    }

    /// `name`, to be run as the account and with messages in English.
    pub(super) fn command(&self, name: &str) -> std::process::Command {
        let mut command = std::process::Command::new(self.program(name));
        command.current_dir("/").env("LC_ALL", "C").env_remove("PGDATA").stdin(Stdio::null());
        if let Some(account) = &self.account {
            use std::os::unix::process::CommandExt;
            command.uid(account.uid).gid(account.gid).env("HOME", "/nonexistent");
        }
        command
    }

    async fn run(&self, name: &str, arguments: &[&str], data_dir: &Path) -> Result<(), PostgresError> {
        let mut command = tokio::process::Command::from(self.command(name));
        command.args(arguments).arg("-D").arg(absolute(data_dir)?).kill_on_drop(true);
        let output = command.output().await.map_err(PostgresError::io("run", &self.program(name)))?;
        checked(name, output)
    }

    fn write_owned(&self, path: &Path, text: &str) -> Result<(), PostgresError> {
        std::fs::write(path, text).map_err(PostgresError::io("write", path))?;
        if let Some(account) = &self.account {
            account.own(path)?;
        }
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(PostgresError::io("change the mode of", path))
    }
}

/// `path` from the root: servers run in a directory of their own.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, PostgresError> {
    std::path::absolute(path).map_err(PostgresError::io("find", path))
}

fn checked(program: &str, output: std::process::Output) -> Result<(), PostgresError> {
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(PostgresError::Program { program: program.to_owned(), output: stderr.trim().to_owned() })
}

fn candidate_dirs() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Ok(output) = std::process::Command::new("pg_config").arg("--bindir").output() {
        dirs.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let debian = std::fs::read_dir(DEBIAN_ROOT).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> =
        debian.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    dirs.extend(versions.into_iter().map(|(_, dir)| dir));
    dirs
}

/// The major version of the server in `dir`, if it is complete and new enough.
fn version_in(dir: &Path) -> Option<u32> {
    if dir.as_os_str().is_empty() || !NEEDED.iter().all(|name| dir.join(name).is_file()) {
        return None;
    }
    let output = std::process::Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    let version = major_version(&String::from_utf8_lossy(&output.stdout))?;
    (version >= OLDEST_VERSION).then_some(version)
}

/// 15 of `postgres (PostgreSQL) 15.3 (Debian 15.3-0+deb12u1)`, 17 of `postgres (PostgreSQL) 17beta1`.
fn major_version(text: &str) -> Option<u32> {
    let number = text.split("(PostgreSQL) ").nth(1)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_major_version() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.3 (Debian 15.3-0+deb12u1)\n"), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_version("mysqld 8"), None);
    }
}

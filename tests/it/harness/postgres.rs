//! One Postgres server of a test.

use std::fs::File;
use std::path::PathBuf;

use trunkline::demo::postgres::{Login, Server, ServerSpec, THROWAWAY_SETTINGS};

use super::{Scratch, free_port, installation};

/// A server that can be killed and started again on the same port.
pub(crate) struct Postgres {
    spec: ServerSpec,
    server: Option<Server>,
}

impl Postgres {
    /// A new server below `scratch`. `settings` come after those of all tests.
    pub(crate) async fn start(scratch: &Scratch, name: &str, login: &Login, settings: &[(&str, &str)]) -> Self {
        let data_dir = scratch.path().join(name);
        match login {
            // A copy of one that initdb has made is ten times as quick.
            Login::Trust => installation().copy_cluster(&template().await, &data_dir).await.unwrap(),
            Login::Scram { .. } => installation().initdb(&data_dir, login).await.unwrap(),
        }
        Self::start_in(scratch, data_dir, settings).await
    }

    /// A streaming replica of this server.
    pub(crate) async fn replica(&self, scratch: &Scratch, name: &str) -> Self {
        let data_dir = scratch.path().join(name);
        installation().base_backup(self.server(), &data_dir).await.unwrap();
        Self::start_in(scratch, data_dir, &[]).await
    }

    async fn start_in(scratch: &Scratch, data_dir: PathBuf, settings: &[(&str, &str)]) -> Self {
        let settings: Vec<(String, String)> =
            THROWAWAY_SETTINGS.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        // Another process may take the port between the look and the start.
        for attempt in 0.. {
            let scratch_dir = Some(scratch.path().to_owned());
            let spec = ServerSpec { data_dir: data_dir.clone(), port: free_port(), settings: settings.clone(), scratch_dir };
            match Server::start(installation(), spec.clone()).await {
                Ok(server) => return Self { spec, server: Some(server) },
                Err(error) if attempt == 3 => panic!("{error}"),
                Err(_) => {}
            }
        }
        unreachable!("the loop returns or panics")
    }

    pub(crate) fn port(&self) -> u16 {
        self.spec.port
    }

    pub(crate) fn pause(&self) {
        self.server().pause();
    }

    pub(crate) fn resume(&self) {
        self.server().resume();
    }

    /// SIGKILL to all its processes. Its port refuses connections from now on.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(Server::is_running)
    }

    /// Starts it again after [`Self::kill`], on the same port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.server = Some(Server::start(installation(), self.spec.clone()).await.unwrap());
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the server was killed")
    }
}

/// A cluster made by initdb once for all test processes of this user and version.
async fn template() -> PathBuf {
    let installation = installation();
    let owner = installation.account.as_ref().map_or("self", |account| &account.name);
    let user = std::fs::metadata("/proc/self").map(|process| std::os::unix::fs::MetadataExt::uid(&process)).unwrap();
    let name = format!("trunkline-it-template-{}-{user}-{owner}", installation.version);
    let path = std::env::temp_dir().join(name);
    let lock = File::create(path.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !path.exists() {
        let unfinished = path.with_extension("unfinished");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished).unwrap();
        }
        installation.initdb(&unfinished, &Login::Trust).await.unwrap();
        std::fs::rename(&unfinished, &path).unwrap();
    }
    path
}

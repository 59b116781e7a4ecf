//! One Postgres server of a test.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Instant;

use trunkline::demo::postgres::{Login, Server, ServerSpec, THROWAWAY_SETTINGS};

use super::{DATABASE, PATIENCE, Scratch, connect_with, free_port, installation, scratch_root};

/// The demo's tables, and one for each further type of hash key.
const SCHEMA: &str = concat!(
    include_str!("../../../sql/demo/schema.sql"),
    "
    CREATE TABLE docs (slug text PRIMARY KEY, body text);
    CREATE TABLE visits (visit_id uuid PRIMARY KEY, page text);
    CREATE TABLE parts (part_id integer PRIMARY KEY, name text, weight numeric, made date, is_new boolean, ratio float8);
    "
);

/// A server that can be killed and started again on the same port.
pub(crate) struct Postgres {
    spec: ServerSpec,
    server: Option<Server>,
}

impl Postgres {
    /// A new server below `scratch` with the test schema and no rows. `settings` come after those of all tests.
    pub(crate) async fn start(scratch: &Scratch, name: &str, login: &Login, settings: &[(&str, &str)]) -> Self {
        let data_dir = scratch.path().join(name);
        match login {
            // A copy of one that initdb has made is ten times as quick.
            Login::Trust => installation().copy_cluster(&template().await, &data_dir).await.unwrap(),
            Login::Scram { .. } => installation().initdb(&data_dir, login).await.unwrap(),
        }
        let server = Self::start_in(scratch, data_dir, settings).await;
        if matches!(login, Login::Scram { .. }) {
            create_schema(server.port(), login).await;
        }
        server
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
        // The kernel may take a moment to be done with what was killed.
        let deadline = Instant::now() + PATIENCE;
        self.server = loop {
            match Server::start(installation(), self.spec.clone()).await {
                Ok(server) => break Some(server),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the server was killed")
    }
}

/// A stopped cluster with the test schema, made once for all test processes of this user and version.
async fn template() -> PathBuf {
    let installation = installation();
    let owner = installation.account.as_ref().map_or("self", |account| &account.name);
    let user = std::fs::metadata("/proc/self").map(|process| std::os::unix::fs::MetadataExt::uid(&process)).unwrap();
    let mut hasher = DefaultHasher::new();
    SCHEMA.hash(&mut hasher);
    let name = format!("trunkline-it-template-{}-{user}-{owner}-{:x}", installation.version, hasher.finish());
    let path = scratch_root().join(name);
    let lock = File::create(path.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !path.exists() {
        let unfinished = path.with_extension("unfinished");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished).unwrap();
        }
        installation.initdb(&unfinished, &Login::Trust).await.unwrap();
        let spec = ServerSpec { data_dir: unfinished.clone(), port: free_port(), settings: Vec::new(), scratch_dir: None };
        let server = Server::start(installation, spec).await.unwrap();
        create_schema(server.port(), &Login::Trust).await;
        server.stop().await;
        std::fs::rename(&unfinished, &path).unwrap();
    }
    path
}

/// Makes the database and the tables of the tests.
async fn create_schema(port: u16, login: &Login) {
    let password = match login {
        Login::Trust => String::new(),
        Login::Scram { password } => format!("password='{password}'"),
    };
    let target = |dbname| format!("host=127.0.0.1 port={port} user=postgres dbname={dbname} {password}");
    let client = connect_with(&target("postgres")).await.unwrap();
    client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await.unwrap();
    connect_with(&target(DATABASE)).await.unwrap().batch_execute(SCHEMA).await.unwrap();
}

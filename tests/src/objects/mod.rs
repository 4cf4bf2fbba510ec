//! Object stores on free ports, that end with the test: a folder, S3, Azure. GCS has no server that could be
//! installed here.

mod azure;
mod server;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use hearth_worker::objects::ObjectSettings;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use self::server::Server;
use crate::real::program;

/// The buckets that every store of a test has.
const BUCKETS: [&str; 2] = ["inputs", "outputs"];

/// A store with a bucket of inputs and one of outputs.
pub struct Stores {
    scheme: &'static str,
    tables: String,
    /// Where a plain folder's or an S3 server's objects are.
    root: TempDir,
    server: Option<Server>,
}

impl Stores {
    /// Folders of this host.
    ///
    /// # Errors
    /// No directory can be made.
    pub fn folder() -> Result<Self> {
        let root = Self::root()?;
        let table = |name: &str| {
            let folder = root.path().join(name);
            format!("[objects.stores.\"file://{name}\"]\nfolder = \"{}\"\n", folder.display())
        };
        let tables = table("inputs") + &table("outputs");
        Ok(Self { scheme: "file", tables, root, server: None })
    }

    /// An S3 server, or aloud why there is none.
    ///
    /// # Errors
    /// It does not start, or is missing where it must not be.
    pub async fn s3() -> Result<Option<Self>> {
        let Some(program) = find("s3s-fs")? else { return Ok(None) };
        let root = Self::root()?;
        let server = Server::start(|port| {
            let mut command = Command::new(&program);
            command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--access-key", "hearth", "--secret-key", "hearth-secret"]).arg(root.path());
            command
        })
        .await?;
        let table = |name: &str| {
            format!(
                "[objects.stores.\"s3://{name}\"]\nendpoint = \"http://127.0.0.1:{}\"\nregion = \"us-east-1\"\n\
                 access_key_id = \"hearth\"\nsecret_access_key = \"hearth-secret\"\n",
                server.port()
            )
        };
        let tables = table("inputs") + &table("outputs");
        Ok(Some(Self { scheme: "s3", tables, root, server: Some(server) }))
    }

    /// An Azure server, or aloud why there is none.
    ///
    /// # Errors
    /// It does not start, or is missing where it must not be.
    pub async fn azure() -> Result<Option<Self>> {
        let Some(program) = find("azurite-blob")? else { return Ok(None) };
        let root = Self::root()?;
        let data = root.path().join("azurite");
        let server = Server::start(|port| {
            let mut command = Command::new(&program);
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
            command
                .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location"])
                .arg(&data);
            command
        })
        .await?;
        for bucket in BUCKETS {
            azure::container(server.port(), bucket).await?;
        }
        let (port, account, key) = (server.port(), azure::ACCOUNT, azure::KEY);
        let table = |name: &str| {
            format!(
                "[objects.stores.\"az://{name}\"]\nendpoint = \"http://127.0.0.1:{port}/{account}\"\n\
                 account_name = \"{account}\"\naccess_key = \"{key}\"\n"
            )
        };
        let tables = table("inputs") + &table("outputs");
        Ok(Some(Self { scheme: "az", tables, root, server: Some(server) }))
    }

    fn root() -> Result<TempDir> {
        let root = tempfile::tempdir()?;
        for name in BUCKETS {
            std::fs::create_dir(root.path().join(name))?;
        }
        Ok(root)
    }

    /// The name of an input.
    pub fn input(&self, key: &str) -> String {
        format!("{}://inputs/{key}", self.scheme)
    }

    /// Puts an input there. Returns what a job says of it.
    ///
    /// # Errors
    /// The store does not take it.
    pub async fn put(&self, key: &str, bytes: &[u8]) -> Result<serde_json::Value> {
        match (self.scheme, self.port()) {
            ("az", Some(port)) => azure::blob(port, "inputs", key, bytes).await?,
            _ => {
                let path = self.root.path().join("inputs").join(key);
                std::fs::create_dir_all(path.parent().context("a key is below its bucket")?)?;
                std::fs::write(path, bytes)?;
            }
        }
        let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(serde_json::json!({"path": "f", "object": self.input(key), "sha256": sha256, "size": bytes.len()}))
    }

    /// The settings as an operator writes them: every tenant may read its own inputs, and outputs are kept.
    pub fn table(&self) -> String {
        format!(
            "{}[objects.tenants]\n\"*\" = [\"{scheme}://inputs/{{tenant}}\"]\n\
             [objects.outputs]\nto = \"{scheme}://outputs/kept\"\n",
            self.tables,
            scheme = self.scheme
        )
    }

    /// The same, read.
    ///
    /// # Errors
    /// They are wrong.
    pub fn settings(&self) -> Result<ObjectSettings> {
        Ok(ObjectSettings::parse(&self.table(), &|_| None)?)
    }

    /// Where a folder's or an S3 server's objects are, as files.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// Where the server listens.
    pub fn port(&self) -> Option<u16> {
        self.server.as_ref().map(Server::port)
    }

    /// Ends the server; its objects stay.
    pub fn stop(&mut self) {
        if let Some(server) = &mut self.server {
            server.stop();
        }
    }

    /// Starts it again, on the same port.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(&mut self) -> Result<()> {
        match &mut self.server {
            Some(server) => server.again().await,
            None => Ok(()),
        }
    }
}

/// A server's program, or aloud that it is missing.
#[allow(clippy::disallowed_methods, reason = "the harness is told by the environment what must be there")]
fn find(name: &str) -> Result<Option<PathBuf>> {
    match program(name) {
        Ok(program) => Ok(Some(program)),
        Err(lack) if std::env::var_os("HEARTH_REQUIRE_REAL").is_some() => {
            Err(lack).context("`deploy/install-deps.sh test` installs it")
        }
        Err(lack) => {
            eprintln!("SKIPPED: no object store of this kind: {lack:#}; `make test` installs it");
            Ok(None)
        }
    }
}

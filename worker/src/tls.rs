//! Certificates for connections to the broker and to Redis, and for a look at them.

use std::{io, net::TcpStream, path::Path, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

/// What a connection by TLS needs beside the address. PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// Whom to trust; without, whom this host trusts.
    pub ca: Option<Vec<u8>>,
    /// Our own certificate and its key, for servers that ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ca, identity) = (self.ca.is_some(), self.identity.is_some());
        f.debug_struct("Certificates").field("ca", &ca).field("identity", &identity).finish()
    }
}

/// A file that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {what}")]
pub struct BadCertificates {
    /// `ca_file`, `certificate_file` or `key_file`.
    pub field: &'static str,
    what: String,
}

impl Certificates {
    /// Reads and checks the files. Blocks for a short time.
    ///
    /// # Errors
    /// The first file that is wrong.
    pub fn read(
        ca: Option<&Path>,
        certificate: Option<&Path>,
        key: Option<&Path>,
    ) -> Result<Self, BadCertificates> {
        let certificates = |field, path: &Path| {
            let pem = pem(field, path)?;
            let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).flatten().collect();
            match found.is_empty() {
                true => Err(wrong(field, path, "has no certificate in PEM")),
                false => Ok(pem),
            }
        };
        let ca = ca.map(|path| certificates("ca_file", path)).transpose()?;
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(path), None) => return Err(wrong("key_file", path, "needs its key: key_file is missing")),
            (None, Some(path)) => {
                return Err(wrong(
                    "certificate_file",
                    path,
                    "needs its certificate: certificate_file is missing",
                ));
            }
            (Some(certificate), Some(path)) => {
                let key = pem("key_file", path)?;
                PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
                    wrong("key_file", path, &format!("has no private key in PEM: {error}"))
                })?;
                Some((certificates("certificate_file", certificate)?, key))
            }
        };
        Ok(Self { ca, identity })
    }

    /// Whether anything is given.
    pub fn is_empty(&self) -> bool {
        self.ca.is_none() && self.identity.is_none()
    }

    /// Speaks TLS over a fresh connection. Blocks; the stream's own timeouts bound it.
    ///
    /// # Errors
    /// The other side is not trusted, does not trust us, or speaks no TLS.
    pub fn connect(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(self.client()?), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    fn client(&self) -> io::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(pem) => roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten()),
            None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?.with_root_certificates(roots);
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some((pem, key)) => {
                let chain = CertificateDer::pem_slice_iter(pem).flatten().collect();
                let key = PrivateKeyDer::from_pem_slice(key).map_err(io::Error::other)?;
                builder.with_client_auth_cert(chain, key).map_err(io::Error::other)
            }
        }
    }
}

/// What to do about an error of TLS, where it is one: `setting` is `broker` or `redis`.
pub fn remedy(error: &str, setting: &str) -> Option<String> {
    let lower = error.to_lowercase();
    if lower.contains("certificaterequired") || lower.contains("certificate required") {
        return Some(format!(
            "it asks for our certificate: set {setting}.certificate_file and {setting}.key_file"
        ));
    }
    if lower.contains("notvalidforname") || lower.contains("not valid for name") {
        return Some(format!("its certificate is for another name: correct the host in {setting}.url"));
    }
    let untrusted = ["unknownissuer", "invalid peer certificate"];
    untrusted
        .iter()
        .any(|word| lower.contains(word))
        .then(|| format!("its certificate is not trusted: {setting}.ca_file must name the CA that signed it"))
}

fn pem(field: &'static str, path: &Path) -> Result<Vec<u8>, BadCertificates> {
    std::fs::read(path).map_err(|error| wrong(field, path, &error.to_string()))
}

fn wrong(field: &'static str, path: &Path, what: &str) -> BadCertificates {
    BadCertificates { field, what: format!("{}: {what}", path.display()) }
}

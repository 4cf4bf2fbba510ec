//! One store: a folder, or a client.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Once},
    time::Duration,
};

use hearth_schemas::reference::{Scheme, StoreName};
use object_store::{
    ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
};

use super::{folder::Folder, settings::StoreSettings};

/// Tries of one request beside the first. A store that stays away longer is told to the job's retries.
const RETRIES_MAX: usize = 3;
/// How long one request is tried again.
const RETRY_FOR: Duration = Duration::from_secs(20);
/// Bound of one request with its body, which is as long as the object; that it goes on at all is looked at elsewhere.
const REQUEST_MAX: &str = "1 hour";

/// A store that can be asked.
#[derive(Clone, Debug)]
pub(super) enum Store {
    Folder(Folder),
    Remote(Arc<dyn ObjectStore>),
}

/// Why a worker cannot have its stores.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be opened.
    #[error("objects.stores.\"{store}\".folder, {}", path.display())]
    Folder {
        /// Which store.
        store: StoreName,
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The options make no client.
    #[error("objects.stores.\"{store}\"")]
    Remote {
        /// Which store.
        store: StoreName,
        /// Why not.
        #[source]
        source: object_store::Error,
    },
    /// The directory for objects on their way cannot be made.
    #[error("the spool for objects, {}", path.display())]
    Spool {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Store {
    pub(super) fn open(name: &StoreName, settings: &StoreSettings) -> Result<Self, OpenError> {
        match settings {
            StoreSettings::Folder(path) => Folder::open(path)
                .map(Store::Folder)
                .map_err(|source| OpenError::Folder { store: name.clone(), path: path.clone(), source }),
            StoreSettings::Remote(options) => client(name, options)
                .map(Store::Remote)
                .map_err(|source| OpenError::Remote { store: name.clone(), source }),
        }
    }
}

/// Whether a client of this kind knows the option.
pub(crate) fn knows(scheme: Scheme, option: &str) -> bool {
    match scheme {
        Scheme::File => false,
        Scheme::S3 => option.parse::<AmazonS3ConfigKey>().is_ok(),
        Scheme::Gs => option.parse::<GoogleConfigKey>().is_ok(),
        Scheme::Az => option.parse::<AzureConfigKey>().is_ok(),
    }
}

/// A client, with what the environment says where the options do not.
fn client(
    name: &StoreName,
    options: &BTreeMap<String, String>,
) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    static CIPHERS: Once = Once::new();
    CIPHERS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let retry = RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_FOR, ..RetryConfig::default() };
    // Who writes http:// means it.
    let plain = options.iter().any(|(key, value)| key.ends_with("endpoint") && value.starts_with("http://"));
    macro_rules! build {
        ($builder:ident, $key:ident, $named:ident) => {{
            let mut builder = $builder::from_env().$named(&name.name).with_retry(retry);
            builder = builder.with_config($key::Client(ClientConfigKey::Timeout), REQUEST_MAX);
            if plain {
                builder = builder.with_config($key::Client(ClientConfigKey::AllowHttp), "true");
            }
            for (key, value) in options {
                builder = builder.with_config(key.parse::<$key>()?, value);
            }
            Ok(Arc::new(builder.build()?))
        }};
    }
    match name.scheme {
        Scheme::S3 => build!(AmazonS3Builder, AmazonS3ConfigKey, with_bucket_name),
        Scheme::Gs => build!(GoogleCloudStorageBuilder, GoogleConfigKey, with_bucket_name),
        Scheme::Az => build!(MicrosoftAzureBuilder, AzureConfigKey, with_container_name),
        Scheme::File => Err(object_store::Error::NotSupported { source: "a folder has no options".into() }),
    }
}

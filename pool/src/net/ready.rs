//! Networks that are made ahead of need, so that no restore waits for one.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc},
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

use super::{Namespace, Network, NetworkConfig, NetworkError, host, network::prepare_host};

/// The networks of one process. Those that nobody has taken go with it.
#[derive(Debug)]
pub struct Networks {
    config: Arc<NetworkConfig>,
    outside: Namespace,
    ready: Mutex<mpsc::Receiver<Network>>,
    maker: JoinHandle<()>,
}

impl Drop for Networks {
    fn drop(&mut self) {
        self.maker.abort();
    }
}

impl Networks {
    /// Makes the host (`outside`, best [`Namespace::own`]) ready and begins to make networks. Needs root.
    pub async fn open(config: NetworkConfig, outside: Namespace) -> Result<Self, NetworkError> {
        let config = Arc::new(config);
        let (given, there) = (Arc::clone(&config), outside.clone());
        blocking(move || prepare_host(&given, &there)).await?;
        let (give, ready) = mpsc::channel(config.ahead.max(1));
        let maker = tokio::spawn(keep_ready(Arc::clone(&config), outside.clone(), give));
        Ok(Self { config, outside, ready: Mutex::new(ready), maker })
    }

    /// A network of one's own: one that is ready, or a new one. Cancel safe.
    pub async fn take(&self) -> Result<Arc<Network>, NetworkError> {
        if let Ok(network) = self.ready.lock().await.try_recv() {
            return Ok(Arc::new(network));
        }
        let (config, outside) = (Arc::clone(&self.config), self.outside.clone());
        blocking(move || Network::make(&config, &outside)).await.map(Arc::new)
    }
}

/// The pause after a network that could not be made. Whoever needs one meanwhile hears of it first hand.
const AGAIN: Duration = Duration::from_secs(30);

/// Makes one whenever there is room.
async fn keep_ready(config: Arc<NetworkConfig>, outside: Namespace, give: mpsc::Sender<Network>) {
    loop {
        let Ok(room) = give.reserve().await else { return };
        let (config, outside) = (Arc::clone(&config), outside.clone());
        match blocking(move || Network::make(&config, &outside)).await {
            Ok(network) => room.send(network),
            Err(error) => {
                tracing::warn!(error = %crate::vm::log::chain(&error), "no network could be made ahead of need");
                sleep(AGAIN).await;
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(host("make a network")(error.into())))
}

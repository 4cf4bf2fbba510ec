//! A line to a server that can be cut, as a TCP proxy.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// What the line does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// They pass.
    Clear,
    /// They are held and pass later, as TCP's do when a partition heals.
    Partition,
    /// Questions pass, answers are lost.
    AnswersLost,
}

/// A line. Connections over it break when it is dropped.
#[derive(Debug)]
pub struct Line {
    port: u16,
    weather: watch::Sender<Weather>,
    _pumps: JoinSet<()>,
}

impl Line {
    /// Makes a line to a local port.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (weather, now) = watch::channel(Weather::Clear);
        let mut pumps = JoinSet::new();
        pumps.spawn(accept(listener, target, now));
        Self { port, weather, _pumps: pumps }
    }

    /// The URL of the server behind it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Changes what the line does, at once and for the connections that there are.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn accept(listener: TcpListener, target: u16, weather: watch::Receiver<Weather>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let weather = weather.clone();
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            // The end of either direction ends both.
            tokio::select! {
                () = pump(from_near, to_far, weather.clone(), false) => {}
                () = pump(from_far, to_near, weather, true) => {}
            }
        });
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    answers: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let Ok(now) = weather.wait_for(|w| *w != Weather::Partition).await.map(|w| *w) else { return };
        if answers && now == Weather::AnswersLost {
            continue;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

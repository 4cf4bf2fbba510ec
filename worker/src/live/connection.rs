//! Output over the live connection of a claimed VM, for jobs that are watched.

use std::time::Duration;

use hearth_pool::{
    live::{LivePiece, LiveReader, LiveWhat},
    pool::Claim,
    session::Channel,
};
use hearth_schemas::event::{LiveBy, OutputStream};
use tokio::{task::JoinHandle, time::timeout};

use super::Feed;
use crate::attempt::chain;

/// How long a VM stays after its job for the last of its live output to arrive.
const OUTLAST_MAX: Duration = Duration::from_secs(1);

/// The live connection of one claim, or none. Dropped, nothing more comes of it.
#[derive(Debug)]
pub struct Connection {
    carrying: Option<JoinHandle<()>>,
    feed: Feed,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(carrying) = &self.carrying {
            carrying.abort();
            self.feed.live_over();
        }
    }
}

impl Connection {
    /// Makes it, for a job that is watched. Without one, output is told from the copy that the result is made of. Takes
    /// a few seconds at most; a few milliseconds where all is well.
    pub async fn make(claim: &Claim, feed: &Feed) -> Self {
        let mut this = Self { carrying: None, feed: feed.clone() };
        if !feed.is_on() {
            return this;
        }
        match claim.live().await {
            Ok(reader) => {
                feed.claimed(LiveBy::Connection);
                this.carrying = Some(tokio::spawn(carry(reader, feed.clone())));
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "no live connection");
                feed.claimed(LiveBy::Result);
            }
        }
        this
    }

    /// Lets go of the VM when the last of its live output is there, or a moment has passed. Does not wait for that.
    pub fn outlast(self, claim: Claim) {
        if self.carrying.is_some() {
            tokio::spawn(async move {
                let _ = timeout(OUTLAST_MAX, self.feed.calm()).await;
                drop(self);
                claim.finish();
            });
        }
    }
}

/// Reads only while there is room, so that what is too much is dropped where it costs least: before it leaves the VM.
async fn carry(mut reader: LiveReader, feed: Feed) {
    loop {
        feed.room().await;
        let LivePiece { live, channel, what } = match reader.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(error = chain(&error), "a live connection ended early");
                break;
            }
        };
        let stream = match channel {
            Channel::Stdout => OutputStream::Stdout,
            Channel::Stderr => OutputStream::Stderr,
        };
        match what {
            LiveWhat::Data(data) => feed.live_data(live, stream, &data),
            LiveWhat::Lost(lost) => feed.live_lost(live, stream, lost),
            LiveWhat::End => feed.live_end(live, stream),
        }
    }
    feed.live_over();
}

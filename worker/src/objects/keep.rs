//! From an output in a VM to an object in the operator's store, a part at a time.

use std::{io, io::Write as _, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use hearth_schemas::reference::Reference;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload, path::Path};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{Objects, folder::Unnamed, store::Store};
use crate::ledger::JobKey;

/// What a whole result is called; names of outputs do not begin with `_` but for `_<number>/`.
const RESULT_NAME: &str = "_result.json";
/// What stores take as a part at least, and what one output costs in memory.
const PART_BYTES: usize = 5 << 20;
/// A store that does not take a part in so long is away.
const STALL_MAX: Duration = Duration::from_secs(120);
/// Pieces between the VM and the disk.
const QUEUE: usize = 4;

/// An output that could not be kept. Our own fault.
#[derive(Debug, thiserror::Error)]
#[error("keeping {what}")]
pub struct KeepError {
    /// Which object.
    what: String,
    /// How it failed.
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// An object that is being written. It appears when it is finished; dropped before that, nothing is left of it but,
/// if this process ends at once, parts that the store cleans up by its own rules.
pub struct Keeping {
    reference: Reference,
    to: To,
}

enum To {
    Folder { queue: mpsc::Sender<Bytes>, writing: JoinHandle<io::Result<Unnamed>> },
    Remote(Parts),
}

impl Objects {
    /// Begins to keep one output. `attempt` names the attempt at the job, so that two never share an object. `None`
    /// where the operator keeps no outputs.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub async fn keep(
        &self,
        job: &JobKey,
        attempt: &str,
        number: usize,
        path: &str,
    ) -> Result<Option<Keeping>, KeepError> {
        self.keep_named(job, attempt, &key(path, number)).await
    }

    /// Keeps a whole result, whose name no output can have. `None` where the operator keeps no outputs.
    ///
    /// # Errors
    /// The store does not take it.
    pub async fn keep_result(
        &self,
        job: &JobKey,
        attempt: &str,
        result: Bytes,
    ) -> Result<Option<Reference>, KeepError> {
        let Some(mut keeping) = self.keep_named(job, attempt, RESULT_NAME).await? else { return Ok(None) };
        keeping.piece(result).await?;
        keeping.finish().await.map(Some)
    }

    async fn keep_named(
        &self,
        job: &JobKey,
        attempt: &str,
        name: &str,
    ) -> Result<Option<Keeping>, KeepError> {
        let Some((below, store)) = self.kept_below() else { return Ok(None) };
        let rest = format!("{}/{}/{attempt}/{name}", job.tenant, job.id);
        let reference = below.object(&job.tenant, &rest);
        let reference = reference.map_err(|error| failed(&rest, error))?;
        let to = match store {
            Store::Remote(client) => To::Remote(Parts::new(client.clone(), &reference)?),
            Store::Folder(folder) => {
                let (folder, key) = (folder.clone(), reference.key.clone());
                let unnamed = spawn_blocking(move || folder.create(&key)).await;
                let unnamed = unnamed.unwrap_or_else(|error| Err(io::Error::other(error)));
                write_to(unnamed.map_err(|error| failed(&reference.to_string(), error))?)
            }
        };
        Ok(Some(Keeping { reference, to }))
    }
}

impl Keeping {
    /// The next bytes. Not cancel safe: drop it.
    pub async fn piece(&mut self, bytes: Bytes) -> Result<(), KeepError> {
        match &mut self.to {
            // What failed is told at the end.
            To::Folder { queue, .. } => drop(queue.send(bytes).await),
            To::Remote(parts) => {
                let taken = parts.piece(bytes).await;
                taken.map_err(|error| failed(&self.reference.to_string(), error))?;
            }
        }
        Ok(())
    }

    /// All bytes have come: the object appears. Returns its name.
    pub async fn finish(self) -> Result<Reference, KeepError> {
        let Keeping { reference, to } = self;
        let finished: Result<(), Box<dyn std::error::Error + Send + Sync>> = match to {
            To::Folder { queue, writing } => {
                drop(queue);
                match writing.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
                    Ok(unnamed) => spawn_blocking(move || unnamed.name())
                        .await
                        .unwrap_or_else(|error| Err(io::Error::other(error)))
                        .map_err(Into::into),
                    Err(error) => Err(error.into()),
                }
            }
            To::Remote(parts) => parts.finish().await.map_err(Into::into),
        };
        match finished {
            Ok(()) => Ok(reference),
            Err(error) => Err(failed(&reference.to_string(), error)),
        }
    }
}

fn write_to(mut unnamed: Unnamed) -> To {
    let (queue, mut pieces) = mpsc::channel::<Bytes>(QUEUE);
    let writing = spawn_blocking(move || {
        while let Some(piece) = pieces.blocking_recv() {
            unnamed.file.write_all(&piece)?;
        }
        Ok(unnamed)
    });
    To::Folder { queue, writing }
}

struct Parts {
    client: Arc<dyn ObjectStore>,
    path: Path,
    /// Once there is more than one part.
    upload: Option<Box<dyn MultipartUpload>>,
    part: BytesMut,
}

impl Parts {
    fn new(client: Arc<dyn ObjectStore>, reference: &Reference) -> Result<Self, KeepError> {
        let path = Path::parse(&reference.key).map_err(|error| failed(&reference.to_string(), error))?;
        Ok(Self { client, path, upload: None, part: BytesMut::new() })
    }

    async fn piece(&mut self, mut bytes: Bytes) -> Result<(), object_store::Error> {
        while self.part.len() + bytes.len() > PART_BYTES {
            let fits = bytes.split_to(PART_BYTES - self.part.len());
            self.part.extend_from_slice(&fits);
            self.send().await?;
        }
        // A part at once, instead of growing to it by doubling.
        if self.part.capacity() == 0 {
            self.part.reserve(PART_BYTES);
        }
        self.part.extend_from_slice(&bytes);
        Ok(())
    }

    /// Sends a part and waits until the store has it, so that there is one part in memory and no more.
    async fn send(&mut self) -> Result<(), object_store::Error> {
        let part = std::mem::take(&mut self.part).freeze();
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => none.insert(in_time(self.client.put_multipart(&self.path)).await?),
        };
        in_time(upload.put_part(PutPayload::from(part))).await
    }

    async fn finish(mut self) -> Result<(), object_store::Error> {
        if self.upload.is_none() {
            let whole = std::mem::take(&mut self.part).freeze();
            return in_time(self.client.put(&self.path, PutPayload::from(whole))).await.map(drop);
        }
        if !self.part.is_empty() {
            self.send().await?;
        }
        if let Some(upload) = &mut self.upload {
            in_time(upload.complete()).await?;
        }
        self.upload = None;
        Ok(())
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.upload.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { upload.abort().await });
        }
    }
}

async fn in_time<T>(
    work: impl Future<Output = Result<T, object_store::Error>>,
) -> Result<T, object_store::Error> {
    timeout(STALL_MAX, work).await.unwrap_or_else(|_| {
        let source = format!("nothing for {STALL_MAX:?}").into();
        Err(object_store::Error::Generic { store: "object store", source })
    })
}

/// A path as a part of a key: what could mean something to a store or a URL is replaced, and the number keeps such
/// names apart.
fn key(path: &str, number: usize) -> String {
    let plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | '=' | ',' | ' ' | '@')
    };
    if path.chars().all(plain) && !path.starts_with('_') {
        return path.to_owned();
    }
    let replaced: String = path.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    format!("_{number}/{replaced}")
}

fn failed(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> KeepError {
    KeepError { what: what.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn names_of_outputs_are_plain_and_apart() {
        assert_eq!(key("plots/a 1.png", 0), "plots/a 1.png");
        assert_eq!(key("a%2e", 3), "_3/a_2e");
        assert_eq!(key("a?2e", 4), "_4/a_2e");
        assert_eq!(key("_3/a_2e", 5), "_5/_3/a_2e");
    }
}

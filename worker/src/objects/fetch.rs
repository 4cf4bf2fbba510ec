//! From an admitted job to its objects on this host, each of the size and digest that the job vouches for.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hearth_schemas::{limits::RESULT_MAX_BYTES, reference::Reference, result::Reduced};
use object_store::{ObjectStoreExt as _, path::Path};
use tokio::{sync::OwnedSemaphorePermit, task::spawn_blocking, time::timeout};

use super::{
    Objects, ROOM_UNIT_BYTES,
    spool::{Copied, Spool},
    store::Store,
};
use crate::{
    admit::{Content, JobFile, ObjectInput, unhex},
    tar::{TarEntry, list},
};

/// Objects of one job that are fetched at once.
const AT_ONCE: usize = 4;
/// Entries of all archives of one job together: their lists are held.
const ENTRIES_MAX: usize = 64 * 1024;
/// A store that sends nothing for so long is away.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Why a job does not have its objects.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// An object is not what the job says. The job's own doing.
    #[error("{0}")]
    Job(String),
    /// A store, or this host, failed.
    #[error("fetching {what}")]
    Ours {
        /// Which object; or the spool.
        what: String,
        /// How it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The objects of one job, checked. They are gone when it is dropped.
#[derive(Debug, Default)]
pub struct Fetched {
    spool: Option<Spool>,
    /// By the file's place in the job.
    places: BTreeMap<usize, Place>,
    _room: Option<OwnedSemaphorePermit>,
}

/// Where an object is in the spool.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) size: u64,
    /// What is in it, when it is an archive.
    pub(crate) entries: Arc<[TarEntry]>,
}

impl Fetched {
    /// The spool, to be read by one reader at a time.
    pub(crate) fn file(&self) -> io::Result<Option<File>> {
        self.spool.as_ref().map(Spool::file).transpose()
    }

    /// Where the object of a file is.
    pub(crate) fn place(&self, file: usize) -> Option<&Place> {
        self.places.get(&file)
    }
}

impl Objects {
    /// Fetches what a job's files name, and checks it. Waits for room in the spool. When the future is dropped,
    /// nothing is left.
    ///
    /// # Errors
    /// The first object that is not as the job says, or could not be had.
    pub async fn fetch(&self, files: &[JobFile]) -> Result<Fetched, FetchError> {
        let wanted: Vec<(usize, &ObjectInput, bool)> = files
            .iter()
            .enumerate()
            .filter_map(|(index, file)| match &file.content {
                Content::Object(object) => Some((index, object, false)),
                Content::TreeObject(object) => Some((index, object, true)),
                Content::Inline(_) | Content::Tree { .. } => None,
            })
            .collect();
        if wanted.is_empty() {
            return Ok(Fetched::default());
        }
        let bytes = wanted.iter().map(|(_, object, _)| object.size).fold(0, u64::saturating_add);
        let room = self.room(bytes).await?;
        let directory = self.0.spool.clone();
        let spool = spawn_blocking(move || Spool::create(&directory, bytes)).await;
        let spool = spool.unwrap_or_else(|error| Err(io::Error::other(error)));
        let spool = spool.map_err(|error| ours("into the spool", error))?;
        let mut next = 0;
        let fetches = wanted.into_iter().map(|(index, object, archive)| {
            let offset = next;
            next += object.size;
            let (objects, object, spool) = (self.clone(), object.clone(), spool.clone());
            async move {
                let place = objects.one(&object, &spool, offset, archive).await?;
                Ok::<_, FetchError>((index, place))
            }
        });
        let fetches: Vec<_> = fetches.collect();
        let all = (BTreeMap::new(), 0);
        let (places, _) = stream::iter(fetches)
            .buffer_unordered(AT_ONCE)
            .try_fold(all, |(mut places, entries), (index, place)| async move {
                let entries = entries + place.entries.len();
                if entries > ENTRIES_MAX {
                    let what = format!("the archives have more than {ENTRIES_MAX} entries together");
                    return Err(FetchError::Job(format!(
                        "files[{index}].tar_object: {what}; allowed is less"
                    )));
                }
                places.insert(index, place);
                Ok((places, entries))
            })
            .await?;
        Ok(Fetched { spool: Some(spool), places, _room: Some(room) })
    }

    /// Fetches a whole result of which a message names object, digest and size, and checks it. When the future is dropped,
    /// nothing is left.
    ///
    /// # Errors
    /// No store here has it, or it is not what the message says.
    pub async fn result(&self, reduced: &Reduced) -> Result<Bytes, FetchError> {
        let Reduced::ByReference { object, sha256, size_bytes } = reduced else {
            return Err(FetchError::Job("reduced: nothing is kept of what was cut".to_owned()));
        };
        let wrong = |field: &str, what: &str| FetchError::Job(format!("reduced.{field}: {what}"));
        let reference = Reference::parse(object).map_err(|error| wrong("object", &error.to_string()))?;
        let sha256 = unhex(sha256).ok_or_else(|| wrong("sha256", "is no SHA-256 in hex"))?;
        if *size_bytes > RESULT_MAX_BYTES {
            return Err(wrong("size_bytes", &format!("{size_bytes} is more than {RESULT_MAX_BYTES}")));
        }
        if self.store(&reference.store).is_none() {
            return Err(wrong("object", &format!("{} is no store that is configured here", reference.store)));
        }
        let field = "reduced.object".to_owned();
        let content = Content::Object(ObjectInput { reference, sha256, size: *size_bytes, field });
        let file = JobFile { path: "result".to_owned(), mode: 0o600, content };
        let fetched = self.fetch(std::slice::from_ref(&file)).await?;
        let read = spawn_blocking(move || {
            let mut bytes = Vec::new();
            if let Some(mut file) = fetched.file()? {
                file.rewind()?;
                file.read_to_end(&mut bytes)?;
            }
            Ok::<_, io::Error>(Bytes::from(bytes))
        });
        let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        read.map_err(|error| ours("from the spool", error))
    }

    async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, FetchError> {
        let units = u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX);
        let room = self.0.room.clone().acquire_many_owned(units).await;
        room.map_err(|error| ours("into the spool", error))
    }

    async fn one(
        &self,
        object: &ObjectInput,
        spool: &Spool,
        offset: u64,
        archive: bool,
    ) -> Result<Place, FetchError> {
        let store = self.store(&object.reference.store).ok_or_else(|| {
            // Admitted by a worker that has it.
            ours(&object.reference.to_string(), io::Error::other("this worker has no such store"))
        })?;
        let copied = match store {
            Store::Folder(folder) => {
                let (folder, spool, key) = (folder.clone(), spool.clone(), object.reference.key.clone());
                let size = object.size;
                let copied = spawn_blocking(move || {
                    let file = folder.read(&key)?;
                    let there = file.metadata()?.len();
                    if there != size {
                        return Ok(Err(there));
                    }
                    spool.copy(file, offset, size).map(Ok)
                });
                let copied = copied.await.unwrap_or_else(|error| Err(io::Error::other(error)));
                copied
                    .map_err(|error| of_folder(object, error))?
                    .map_err(|there| wrong_size(object, there))?
            }
            Store::Remote(client) => remote(client.as_ref(), object, spool, offset).await?,
        };
        check(object, copied)?;
        let entries = if archive { entries(object, spool, offset).await? } else { Arc::default() };
        Ok(Place { offset, size: object.size, entries })
    }
}

async fn remote(
    client: &dyn object_store::ObjectStore,
    object: &ObjectInput,
    spool: &Spool,
    offset: u64,
) -> Result<Copied, FetchError> {
    let away = || of_store(object, stalled());
    let path = Path::parse(&object.reference.key).map_err(|error| of_store(object, error.into()))?;
    let got = timeout(STALL_MAX, client.get(&path)).await.map_err(|_| away())?;
    let got = got.map_err(|error| of_store(object, error))?;
    if got.meta.size != object.size {
        return Err(wrong_size(object, got.meta.size));
    }
    let writing = spool.write(offset, object.size);
    let mut pieces = got.into_stream();
    loop {
        let piece = timeout(STALL_MAX, pieces.next()).await.map_err(|_| away())?;
        let Some(piece) = piece else { break };
        if !writing.piece(piece.map_err(|error| of_store(object, error))?).await {
            break;
        }
    }
    writing.finish().await.map_err(|error| ours("into the spool", error))
}

/// Lists an archive that has been checked.
async fn entries(object: &ObjectInput, spool: &Spool, offset: u64) -> Result<Arc<[TarEntry]>, FetchError> {
    let (part, size) = (spool.part(offset, object.size), object.size);
    let listed = spawn_blocking(move || list(io::BufReader::new(part), size)).await;
    let listed = listed.map_err(|error| ours(&object.reference.to_string(), error))?;
    listed.map(Into::into).map_err(|error| about(object, &error.to_string()))
}

fn check(object: &ObjectInput, copied: Copied) -> Result<(), FetchError> {
    if copied.bytes != object.size {
        return Err(wrong_size(object, copied.bytes));
    }
    if copied.sha256 != object.sha256 {
        return Err(about(object, "does not have the SHA-256 that the job says"));
    }
    Ok(())
}

fn wrong_size(object: &ObjectInput, there: u64) -> FetchError {
    about(object, &format!("does not have the size that the job says: {} bytes, not {there}", object.size))
}

fn about(object: &ObjectInput, what: &str) -> FetchError {
    FetchError::Job(format!("{}: {} {what}", object.field, object.reference))
}

fn of_folder(object: &ObjectInput, error: io::Error) -> FetchError {
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        Some(Errno::LOOP | Errno::XDEV) => about(object, "is or goes over a link, which is not followed"),
        Some(Errno::ACCESS | Errno::PERM) => about(object, "may not be read by this worker"),
        Some(Errno::NOENT | Errno::NOTDIR) => about(object, "is not there"),
        _ if error.kind() == io::ErrorKind::NotFound => about(object, "is not a regular file"),
        _ => ours(&object.reference.to_string(), error),
    }
}

fn of_store(object: &ObjectInput, error: object_store::Error) -> FetchError {
    match error {
        object_store::Error::NotFound { .. } => about(object, "is not there"),
        object_store::Error::PermissionDenied { .. } => about(object, "may not be read by this worker"),
        error => ours(&object.reference.to_string(), error),
    }
}

fn stalled() -> object_store::Error {
    let source = format!("nothing for {STALL_MAX:?}").into();
    object_store::Error::Generic { store: "object store", source }
}

fn ours(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FetchError {
    FetchError::Ours { what: what.to_owned(), source: source.into() }
}

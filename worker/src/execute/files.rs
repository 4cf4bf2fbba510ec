//! What goes into a VM before the first stage, and what comes out after the last.

use std::{
    io::{Cursor, SeekFrom},
    time::Duration,
};

use bytes::Bytes;
use hearth_pool::session::{Download, FileHead, GetLimits, Piece, Session, SessionError, Upload};
use hearth_schemas::{
    guest::messages::{FaultKind, GetDone},
    limits::{INLINE_OUTPUT_MAX_BYTES, INLINE_OUTPUTS_TOTAL_MAX_BYTES, OUTPUT_FILES_MAX},
    result::{Cause, OutputContent, OutputFile, Payload, RunReport, SkippedOutput, SkippedReason, Verdict},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _, BufReader},
};

use super::{Executed, StepFailure, outputs};
use crate::{
    admit::{Content, Job, hex},
    objects::{Fetched, Objects},
    tar::{TarEntry, TarKind},
    verdict,
};

/// How long a transfer may take, beside its bytes.
const TRANSFER_BASE: Duration = Duration::from_secs(60);
/// How slow a transfer may be, in bytes each second.
pub(crate) const TRANSFER_LEAST_BYTES: u64 = 4 << 20;
/// What is read from the spool at once.
const READ_BYTES: usize = 256 * 1024;

/// What a job's files come from and go to, beside the VM.
#[derive(Debug)]
pub struct Transfers<'a> {
    /// Where outputs are kept.
    pub objects: &'a Objects,
    /// The objects that the job named.
    pub fetched: Fetched,
    /// Names this attempt.
    pub attempt: String,
}

impl Transfers<'_> {
    pub(super) fn upload_limit(job: &Job) -> Duration {
        limit(job.files.iter().map(|file| file.content.size()).fold(0, u64::saturating_add))
    }

    pub(super) fn download_limit(&self) -> Duration {
        limit(self.get_limits().total_max_bytes)
    }

    fn get_limits(&self) -> GetLimits {
        let (file_max_bytes, total_max_bytes) = match self.objects.outputs() {
            None => (INLINE_OUTPUT_MAX_BYTES, INLINE_OUTPUTS_TOTAL_MAX_BYTES),
            Some(outputs) => (outputs.file_max_bytes, outputs.job_max_bytes),
        };
        GetLimits { files_max: OUTPUT_FILES_MAX as u32, file_max_bytes, total_max_bytes }
    }
}

fn limit(bytes: u64) -> Duration {
    TRANSFER_BASE + Duration::from_secs(bytes / TRANSFER_LEAST_BYTES)
}

pub(super) async fn upload(
    session: &Session,
    job: &Job,
    transfers: &Transfers<'_>,
) -> Result<(), SessionError> {
    if job.files.is_empty() {
        return Ok(());
    }
    let of_spool = |source| SessionError::Source { path: "the spool".into(), source };
    let mut spool = transfers.fetched.file().map_err(of_spool)?.map(File::from_std);
    let mut upload = session.put().await?;
    for (index, file) in job.files.iter().enumerate() {
        let path = &file.path;
        match &file.content {
            Content::Inline(bytes) => {
                upload.file(path, file.mode, bytes.len() as u64, Cursor::new(bytes)).await?;
            }
            Content::Tree { archive, entries } => {
                tree(&mut upload, path, entries, &mut Archive::Inline(archive)).await?;
            }
            Content::Object(_) | Content::TreeObject(_) => {
                let missing = || SessionError::Protocol("an object was not fetched before its upload");
                let place = transfers.fetched.place(index).ok_or_else(missing)?;
                let mut archive = Archive::Spool(spool.as_mut().ok_or_else(missing)?, place.offset);
                match &file.content {
                    Content::Object(_) => archive.send(&mut upload, path, file.mode, 0, place.size).await?,
                    _ => tree(&mut upload, path, &place.entries, &mut archive).await?,
                }
            }
        }
    }
    upload.finish(Transfers::upload_limit(job)).await.map(drop)
}

/// Where the bytes of an archive's files are.
enum Archive<'a> {
    Inline(&'a Bytes),
    /// From here on.
    Spool(&'a mut File, u64),
}

impl Archive<'_> {
    async fn send(
        &mut self,
        upload: &mut Upload,
        path: &str,
        mode: u32,
        offset: u64,
        size: u64,
    ) -> Result<(), SessionError> {
        match self {
            Archive::Inline(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                upload.file(path, mode, size, bytes.get(from..).unwrap_or_default()).await
            }
            Archive::Spool(file, start) => {
                let from = SeekFrom::Start(start.saturating_add(offset));
                let sought = file.seek(from).await;
                sought.map_err(|source| SessionError::Source { path: path.to_owned(), source })?;
                let capacity = READ_BYTES.min(usize::try_from(size).unwrap_or(READ_BYTES)).max(1);
                upload.file(path, mode, size, BufReader::with_capacity(capacity, file.take(size))).await
            }
        }
    }
}

async fn tree(
    upload: &mut Upload,
    root: &str,
    entries: &[TarEntry],
    archive: &mut Archive<'_>,
) -> Result<(), SessionError> {
    for entry in entries {
        let path = format!("{root}/{}", entry.path);
        match entry.kind {
            TarKind::Directory => upload.directory(&path).await?,
            TarKind::File { offset, size, executable } => {
                let mode = if executable { 0o755 } else { 0o644 };
                archive.send(upload, &path, mode, offset, size).await?;
            }
        }
    }
    if entries.is_empty() {
        upload.directory(root).await?;
    }
    Ok(())
}

/// Inputs that do not fit the disk, or are in each other's way, are the job's doing, not ours.
pub(super) fn upload_report(failure: &StepFailure) -> Option<RunReport> {
    let SessionError::Fault { kind, message } = &failure.source else { return None };
    let (verdict, cause) = match kind {
        FaultKind::NoSpace => (Verdict::DiskLimit, Cause::Enospc),
        _ => return None,
    };
    let mut report = RunReport::not_run(verdict, Some(cause));
    report.message = Some(message.clone());
    Some(report)
}

pub(super) async fn download(
    session: &Session,
    job: &Job,
    transfers: &Transfers<'_>,
    executed: &mut Executed,
) -> Result<(), SessionError> {
    let mut download = session.get(outputs::asked(&job.outputs), transfers.get_limits()).await?;
    let mut inline_bytes = 0;
    while let Some(head) = download.next().await? {
        let stays =
            transfers.objects.outputs().is_none_or(|outputs| outputs.stays(head.size_bytes, inline_bytes));
        let got = match stays {
            true => inline(&mut download).await?,
            false => kept(&mut download, &head, job, transfers, executed.outputs.len()).await?,
        };
        let Some((sha256, content)) = got else { continue };
        if stays {
            inline_bytes += head.size_bytes;
        }
        executed.outputs.push(OutputFile {
            path: head.path,
            mode: format!("{:04o}", head.mode),
            size_bytes: head.size_bytes,
            sha256: hex(&sha256),
            content,
        });
    }
    if let Some(GetDone { missing, skipped, .. }) = download.done() {
        executed.missing = outputs::missing(&job.outputs, missing);
        executed.skipped = skipped
            .iter()
            .map(|skipped| {
                let reason = verdict::skipped(skipped.reason());
                SkippedOutput {
                    path: skipped.path.clone(),
                    reason,
                    size_bytes: (skipped.size_bytes > 0).then_some(skipped.size_bytes),
                    message: why_skipped(reason, transfers),
                }
            })
            .collect();
    }
    Ok(())
}

/// What can be done about an output that is too large.
fn why_skipped(reason: SkippedReason, transfers: &Transfers<'_>) -> Option<String> {
    let limits = transfers.get_limits();
    let (file, all) = (limits.file_max_bytes, limits.total_max_bytes);
    match (reason, transfers.objects.outputs()) {
        (SkippedReason::TooLarge | SkippedReason::TooMany, None) => Some(format!(
            "allowed are {OUTPUT_FILES_MAX} files, {file} bytes each and {all} together; with a store for outputs \
             (`objects.outputs`) the operator can allow more"
        )),
        (SkippedReason::TooLarge | SkippedReason::TooMany, Some(_)) => {
            Some(format!("allowed are {OUTPUT_FILES_MAX} files, {file} bytes each and {all} together"))
        }
        _ => None,
    }
}

type Got = Option<([u8; 32], OutputContent)>;

async fn inline(download: &mut Download) -> Result<Got, SessionError> {
    let mut content = Vec::new();
    loop {
        match download.piece().await? {
            Piece::Data(data) => content.extend_from_slice(&data),
            Piece::End { sha256 } => return Ok(Some((sha256, Payload::from(content).into()))),
            Piece::Void => return Ok(None),
        }
    }
}

/// Keeps one file in the operator's store while it comes.
async fn kept(
    download: &mut Download,
    head: &FileHead,
    job: &Job,
    transfers: &Transfers<'_>,
    number: usize,
) -> Result<Got, SessionError> {
    let lost = |source: crate::objects::KeepError| SessionError::Target {
        path: head.path.clone(),
        source: Box::new(source),
    };
    let keeping = transfers.objects.keep(&job.key, &transfers.attempt, number, &head.path);
    let Some(mut keeping) = keeping.await.map_err(lost)? else {
        return Err(SessionError::Protocol("an output for a store that is not configured"));
    };
    loop {
        match download.piece().await? {
            Piece::Data(data) => keeping.piece(data).await.map_err(lost)?,
            Piece::End { sha256 } => {
                let reference = keeping.finish().await.map_err(lost)?;
                return Ok(Some((sha256, OutputContent::Object(reference.to_string()))));
            }
            Piece::Void => return Ok(None),
        }
    }
}

//! What goes into a VM before the first stage, and what comes out after the last.

use std::io::Cursor;

use hearth_pool::session::{GetLimits, Piece, Session, SessionError};
use hearth_schemas::{
    guest::messages::{FaultKind, GetDone},
    limits::{INLINE_OUTPUT_MAX_BYTES, INLINE_OUTPUTS_TOTAL_MAX_BYTES, OUTPUT_FILES_MAX},
    result::{Cause, OutputFile, Payload, RunReport, SkippedOutput, Verdict},
};

use super::{Executed, StepFailure, TRANSFER_LIMIT};
use crate::{admit::Job, verdict};

pub(super) async fn upload(session: &Session, job: &Job) -> Result<(), SessionError> {
    if job.files.is_empty() {
        return Ok(());
    }
    let mut upload = session.put().await?;
    for file in &job.files {
        upload.file(&file.path, file.mode, file.content.len() as u64, Cursor::new(&file.content)).await?;
    }
    upload.finish(TRANSFER_LIMIT).await.map(drop)
}

/// Inputs that do not fit the disk are the job's doing, not ours.
pub(super) fn upload_report(failure: &StepFailure) -> Option<RunReport> {
    let SessionError::Fault { kind: FaultKind::NoSpace, message } = &failure.source else { return None };
    let mut report = RunReport::not_run(Verdict::DiskLimit, Some(Cause::Enospc));
    report.message = Some(message.clone());
    Some(report)
}

pub(super) async fn download(
    session: &Session,
    job: &Job,
    executed: &mut Executed,
) -> Result<(), SessionError> {
    let limits = GetLimits {
        files_max: OUTPUT_FILES_MAX as u32,
        file_max_bytes: INLINE_OUTPUT_MAX_BYTES,
        total_max_bytes: INLINE_OUTPUTS_TOTAL_MAX_BYTES,
    };
    let mut download = session.get(job.outputs.clone(), limits).await?;
    while let Some(head) = download.next().await? {
        let mut content = Vec::new();
        let sha256 = loop {
            match download.piece().await? {
                Piece::Data(data) => content.extend_from_slice(&data),
                Piece::End { sha256 } => break Some(sha256),
                Piece::Void => break None,
            }
        };
        let Some(sha256) = sha256 else { continue };
        executed.outputs.push(OutputFile {
            path: head.path,
            mode: format!("{:04o}", head.mode),
            size_bytes: head.size_bytes,
            sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
            content: Payload::from(content).into(),
        });
    }
    if let Some(GetDone { missing, skipped, .. }) = download.done() {
        executed.missing.clone_from(missing);
        executed.skipped = skipped
            .iter()
            .map(|skipped| SkippedOutput {
                path: skipped.path.clone(),
                reason: verdict::skipped(skipped.reason()),
                size_bytes: (skipped.size_bytes > 0).then_some(skipped.size_bytes),
            })
            .collect();
    }
    Ok(())
}

//! Files into a VM and out of it. The floor is a raw copy of as many bytes over the same vsock of the same guest.

use anyhow::{Result, bail, ensure};
use hearth_pool::session::{GetLimits, Piece, Session};
use tokio::{
    io::{AsyncReadExt as _, repeat},
    time::{Duration, Instant},
};

use crate::{Plan, floor::Raw, series::Report};

const MIB: u64 = 1 << 20;
/// Sizes, with their series up and down.
const SIZES: [(u64, &str, &str); 2] =
    [(16 * MIB, "16 MiB up", "16 MiB down"), (64 * MIB, "64 MiB up", "64 MiB down")];
const SMALL: &str = "1,000 files of 4 KiB up";
const SMALL_FILES: u64 = 1000;
const SMALL_BYTES: u64 = 4096;
/// The series of this module.
pub const NAMES: [&str; 5] = [SIZES[0].1, SIZES[0].2, SIZES[1].1, SIZES[1].2, SMALL];

const FILE: &str = "bench.bin";
/// Bound of every request.
const LIMIT: Duration = Duration::from_secs(300);

/// Measures what the plan wants, once.
///
/// # Errors
/// The session or the floor failed.
pub async fn once(plan: &Plan, session: &Session, raw: &mut Raw, report: &mut Report) -> Result<()> {
    for (bytes, up_name, down_name) in SIZES {
        // A download has to have something to bring.
        if plan.wants(&[up_name, down_name]) {
            up(session, raw, bytes, up_name, report).await?;
        }
        if plan.wants(&[down_name]) {
            down(session, raw, bytes, down_name, report).await?;
        }
    }
    if plan.wants(&[SMALL]) {
        small(session, raw, report).await?;
    }
    Ok(())
}

async fn up(session: &Session, raw: &mut Raw, bytes: u64, name: &str, report: &mut Report) -> Result<()> {
    let memory = Memory::before()?;
    let began = Instant::now();
    let mut upload = session.put().await?;
    upload.file(FILE, 0o600, bytes, repeat(7).take(bytes)).await?;
    upload.finish(LIMIT).await?;
    report.ours(name, began.elapsed());
    report.memory(name, memory.grown_kib()?);
    let began = Instant::now();
    raw.up(&vec![7; usize::try_from(bytes)?]).await?;
    report.floor(name, began.elapsed());
    Ok(())
}

async fn down(session: &Session, raw: &mut Raw, bytes: u64, name: &str, report: &mut Report) -> Result<()> {
    let memory = Memory::before()?;
    let began = Instant::now();
    let limits = GetLimits { files_max: 1, file_max_bytes: bytes, total_max_bytes: bytes };
    let mut download = session.get(vec![FILE.to_owned()], limits).await?;
    let mut came = 0;
    while download.next().await?.is_some() {
        loop {
            match download.piece().await? {
                Piece::Data(data) => came += data.len() as u64,
                Piece::End { .. } => break,
                Piece::Void => bail!("nobody writes to {FILE}, and yet it changed"),
            }
        }
    }
    report.ours(name, began.elapsed());
    report.memory(name, memory.grown_kib()?);
    ensure!(came == bytes, "{came} bytes came");
    let began = Instant::now();
    raw.down(bytes).await?;
    report.floor(name, began.elapsed());
    Ok(())
}

/// Many files over one stream; the same ones again replace them.
async fn small(session: &Session, raw: &mut Raw, report: &mut Report) -> Result<()> {
    let memory = Memory::before()?;
    let began = Instant::now();
    let mut upload = session.put().await?;
    for number in 0..SMALL_FILES {
        let path = format!("small/{number}");
        upload.file(&path, 0o600, SMALL_BYTES, repeat(7).take(SMALL_BYTES)).await?;
    }
    upload.finish(LIMIT).await?;
    report.ours(SMALL, began.elapsed());
    report.memory(SMALL, memory.grown_kib()?);
    let began = Instant::now();
    raw.up(&vec![7; usize::try_from(SMALL_FILES * SMALL_BYTES)?]).await?;
    report.floor(SMALL, began.elapsed());
    Ok(())
}

/// What this process had, so that it can be said what a transfer took.
struct Memory(u64);

impl Memory {
    fn before() -> Result<Self> {
        // From here on the kernel keeps the highest mark anew.
        std::fs::write("/proc/self/clear_refs", "5")?;
        Ok(Self(kib("VmHWM:")?))
    }

    fn grown_kib(&self) -> Result<u64> {
        Ok(kib("VmHWM:")?.saturating_sub(self.0))
    }
}

fn kib(what: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

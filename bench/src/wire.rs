//! The guest protocol alone, on this host: no VM, no socket. Floors move the same bytes without it.

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use hearth_schemas::{
    guest::{
        frame::{self, Frame, Kind},
        messages::{HelloReply, Ping},
        mux::Direction,
    },
    limits::DATA_CHUNK_BYTES,
};
use hearth_wire::{Connection, Stream, accept, connect};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::Instant,
};

use crate::{Plan, series::Report};

/// How many bytes go at once.
const BYTES: usize = 16 << 20;
/// What a pipe holds, about as much as a socket.
const PIPE_BYTES: usize = 256 * 1024;

const FRAMES: &str = "wire: frames of 16 MiB";
const STREAM: &str = "wire: stream of 16 MiB";
const ROUND_TRIP: &str = "wire: message and answer";

/// Measures what the plan wants.
///
/// # Errors
/// Bytes were lost.
pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    for _ in 0..plan.samples {
        if plan.wants(&[FRAMES]) {
            frames(report)?;
        }
        if plan.wants(&[STREAM]) {
            stream(report).await?;
        }
        if plan.wants(&[ROUND_TRIP]) {
            round_trip(report).await?;
        }
    }
    Ok(())
}

/// Encodes and decodes, against two copies.
fn frames(report: &mut Report) -> Result<()> {
    let payload = Bytes::from(vec![7; DATA_CHUNK_BYTES]);
    let mut buffer = BytesMut::with_capacity(2 * DATA_CHUNK_BYTES);
    let (mut moved, began) = (0, Instant::now());
    for stream in 0..(BYTES / DATA_CHUNK_BYTES) as u32 {
        frame::encode(&Frame { stream, kind: Kind::Data, payload: payload.clone() }, &mut buffer);
        moved += frame::decode(&mut buffer)?.map_or(0, |frame| frame.payload.len());
    }
    report.ours(FRAMES, began.elapsed());
    ensure!(moved == BYTES, "{moved} bytes came through");
    let (mut moved, began) = (0, Instant::now());
    for _ in 0..BYTES / DATA_CHUNK_BYTES {
        buffer.reserve(DATA_CHUNK_BYTES);
        buffer.extend_from_slice(&payload);
        moved += buffer.split().freeze().len();
    }
    report.floor(FRAMES, began.elapsed());
    ensure!(moved == BYTES, "{moved} bytes were copied");
    Ok(())
}

async fn pair() -> Result<((Connection, Stream), (Connection, Stream))> {
    let (host, agent) = duplex(PIPE_BYTES);
    let (host, agent) = tokio::join!(connect(host), accept(agent, HelloReply::default()));
    let (host, zero, _) = host?;
    Ok(((host, zero), agent?))
}

/// One stream with its credit, through mux and driver of both ends, against the bare pipe.
async fn stream(report: &mut Report) -> Result<()> {
    let ((host, _host_zero), (agent, _agent_zero)) = pair().await?;
    let stream = host.open(Direction::Both).await?;
    let receiving = tokio::spawn(async move {
        let mut stream = agent.next_request().await.context("no stream arrived")?;
        let mut moved = 0;
        while let Some(data) = stream.receiver.data().await? {
            moved += data.len();
        }
        anyhow::Ok(moved)
    });
    let data = Bytes::from(vec![7; BYTES]);
    let began = Instant::now();
    stream.sender.data(data).await?;
    stream.sender.end().await?;
    let moved = receiving.await??;
    report.ours(STREAM, began.elapsed());
    ensure!(moved == BYTES, "{moved} bytes came through");

    let (mut from, to) = duplex(PIPE_BYTES);
    let receiving = tokio::spawn(read_all(to));
    let data = vec![7; BYTES];
    let began = Instant::now();
    from.write_all(&data).await?;
    drop(from);
    let moved = receiving.await??;
    report.floor(STREAM, began.elapsed());
    ensure!(moved == BYTES, "{moved} bytes were copied");
    Ok(())
}

async fn read_all(mut from: DuplexStream) -> Result<usize> {
    let (mut buffer, mut moved) = (vec![0; 2 * DATA_CHUNK_BYTES], 0);
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(moved),
            read => moved += read,
        }
    }
}

/// A control message and one back, against a byte and one back.
async fn round_trip(report: &mut Report) -> Result<()> {
    const ROUNDS: u32 = 100;
    let ((host, _host_zero), (agent, _agent_zero)) = pair().await?;
    let mut stream = host.open(Direction::Both).await?;
    tokio::spawn(async move {
        let mut stream = agent.next_request().await?;
        while let Ok(message) = stream.receiver.message::<Ping>().await {
            stream.sender.message(&message).await.ok()?;
        }
        Some(())
    });
    let began = Instant::now();
    for _ in 0..ROUNDS {
        stream.sender.message(&Ping {}).await?;
        stream.receiver.message::<Ping>().await?;
    }
    report.ours(ROUND_TRIP, began.elapsed() / ROUNDS);

    let (mut ours, mut theirs) = duplex(PIPE_BYTES);
    tokio::spawn(async move {
        while let Ok(byte) = theirs.read_u8().await {
            theirs.write_u8(byte).await.ok()?;
        }
        Some(())
    });
    let began = Instant::now();
    for _ in 0..ROUNDS {
        ours.write_u8(1).await?;
        ours.read_u8().await?;
    }
    report.floor(ROUND_TRIP, began.elapsed() / ROUNDS);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn every_series_of_the_wire_has_a_floor_and_can_be_asked_for_alone() {
        let plan = |only| Plan { samples: 1, only, runtime: String::new() };
        let mut report = Report::default();
        run(&plan(None), &mut report).await.unwrap();
        assert_eq!(report.series.len(), 3);
        assert!(report.series.iter().all(|series| (series.ours_ms.len(), series.floor_ms.len()) == (1, 1)));
        let mut report = Report::default();
        run(&plan(Some("answer".into())), &mut report).await.unwrap();
        assert_eq!(report.series.len(), 1);
    }
}

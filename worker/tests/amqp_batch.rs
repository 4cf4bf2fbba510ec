//! What `hearth submit --batch` holds of its jobs: the real binary against a real RabbitMQ, and somebody who answers at once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod broker;

use std::{
    io::{BufWriter, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use broker::{Client, Vhost, full, prefix, vhost};
use futures_util::StreamExt;
use hearth_schemas::result::{JobResult, Status};
use hearth_worker::amqp::{declare::apply, names::Names, topology::Topology};
use lapin::{
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::task::JoinHandle;

const MIB: u64 = 1 << 20;

/// Answers every job with a result that says nothing.
async fn answering(vhost: &Vhost, names: &Names) -> JoinHandle<()> {
    let client = Client::new(&vhost.endpoint).await;
    apply(&client.link.channel().await.unwrap(), &Topology::new(names, ["python"], 1)).await.unwrap();
    client.channel.basic_qos(500, BasicQosOptions::default()).await.unwrap();
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let intake = names.intake();
    let mut jobs =
        client.channel.basic_consume(intake.as_str().into(), "".into(), options, arguments).await.unwrap();
    tokio::spawn(async move {
        while let Some(Ok(job)) = jobs.next().await {
            let (id, to) =
                (job.properties.message_id().clone().unwrap(), job.properties.reply_to().clone().unwrap());
            let result = JobResult::new(id.as_str(), "t", "python", Status::Finished);
            let properties = lapin::BasicProperties::default().with_correlation_id(id);
            let body = serde_json::to_vec(&result).unwrap();
            let options = BasicPublishOptions::default();
            // Not confirmed one by one: what is lost makes the batch wait, and the test fail.
            drop(client.channel.basic_publish("".into(), to, options, &body, properties).await.unwrap());
            job.ack(BasicAckOptions::default()).await.unwrap();
        }
    })
}

/// The most memory that a batch took, in bytes: so many jobs, each of so many bytes.
async fn peak(vhost: &Vhost, prefix: &str, directory: &Path, jobs: usize, bytes: usize) -> u64 {
    let (file, out) =
        (directory.join(format!("jobs-{jobs}-{bytes}")), directory.join(format!("out-{jobs}-{bytes}")));
    let mut lines = BufWriter::new(std::fs::File::create(&file).unwrap());
    let code = "x".repeat(bytes);
    for n in 0..jobs {
        writeln!(lines, "{{\"id\":\"b{bytes}-{n}\",\"runtime\":\"python\",\"code\":\"{code}\"}}").unwrap();
    }
    drop(lines);
    let mut child = Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(["submit", "--quiet", "--broker", &vhost.url, "--prefix", prefix, "--batch"])
        .arg(&file)
        .arg("--out")
        .arg(&out)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let ended = loop {
        tick.tick().await;
        let seen = std::fs::read_to_string(&status).unwrap_or_default();
        let line = seen.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
    };
    assert_eq!(ended.code(), Some(1), "they say nothing, so none is accepted");
    let results = std::fs::read_to_string(&out).unwrap();
    assert_eq!(results.lines().count(), jobs);
    std::fs::remove_file(&file).unwrap();
    println!("{jobs} jobs of {bytes} bytes: at most {:.1} MiB", peak as f64 / MIB as f64);
    peak
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_holds_little_of_however_many_and_however_long_jobs() {
    let Some(vhost) = vhost() else { return };
    let (prefix, directory) = (prefix(), tempfile::tempdir().unwrap());
    let answering = answering(&vhost, &Names::new(&prefix).unwrap()).await;
    let few = peak(&vhost, &prefix, directory.path(), 2000, 10).await;
    let many = if full() { 1_000_000 } else { 10_000 };
    let more = peak(&vhost, &prefix, directory.path(), many, 11).await;
    // A name of eight bytes for each, in a table that may be half empty and is copied when it grows.
    assert!(more < few + 16 * MIB + many as u64 * 64, "{few} for few, {more} for many");
    // 400 MiB of jobs.
    let long = peak(&vhost, &prefix, directory.path(), 200, 2 << 20).await;
    assert!(long < few + 300 * MIB, "{few} for short ones, {long} for long ones");
    answering.abort();
}

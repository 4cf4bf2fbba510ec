//! Files into a VM and out of it, against a raw copy of as many bytes over the same socket of the same guest.

use std::time::Duration;

use hearth_pool::{
    firecracker::Firecracker,
    hypervisor::Hypervisor,
    session::{GetLimits, Piece, Session},
};
use hearth_schemas::guest::messages::User;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, repeat},
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

use super::median;
use crate::real::{LIMIT, connect, identity, run_as, slot, vmms, wake};

const BYTES: u64 = 64 << 20;
/// Where the server for raw bytes listens in the guest.
const PORT: u32 = 5001;
/// Its answer to an upload that has arrived.
const DONE: u8 = b'!';
const FILE: &str = "bench.bin";

/// Starts a server outside of the command's control group, which a wake empties. It only connects programs with what they
/// copy: `up` is read and thrown away, `down` are zeros.
fn server() -> String {
    let blocks = BYTES >> 16;
    let up = format!("dd of=/dev/null bs=64k iflag=fullblock count={blocks} status=none; printf %c !");
    let down = format!("dd if=/dev/zero bs=64k count={blocks} status=none");
    format!(
        "echo 0 > /sys/fs/cgroup/cgroup.procs || exit 1
        cat > /run/raw.pl <<'END'
socket(my $l, 40, 1, 0) or die; bind($l, pack('SSLLL', 40, 0, {PORT}, 0xffffffff, 0)) or die; listen($l, 8) or die;
while (accept(my $c, $l)) {{
  next if fork;
  open(STDIN, '<&', $c); open(STDOUT, '>&', $c); sysread($c, my $way, 1);
  exec('sh', '-c', $way eq 'u' ? '{up}' : '{down}');
}}
END
        setsid perl /run/raw.pl </dev/null >/dev/null 2>&1 &"
    )
}

/// A raw connection to the server, once that listens.
async fn dial() -> UnixStream {
    timeout(LIMIT, dialed()).await.expect("the server for raw bytes answers")
}

async fn dialed() -> UnixStream {
    let socket = format!("/proc/{}/cwd/vsock.sock", vmms()[0]);
    loop {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while let Ok(byte) = stream.read_u8().await {
            answer.push(byte);
            if byte == b'\n' {
                return stream;
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn raw_up() -> f64 {
    let mut stream = dial().await;
    let (begun, chunk) = (Instant::now(), vec![7; 64 << 10]);
    stream.write_all(b"u").await.unwrap();
    for _ in 0..BYTES >> 16 {
        stream.write_all(&chunk).await.unwrap();
    }
    assert_eq!(stream.read_u8().await.unwrap(), DONE);
    begun.elapsed().as_secs_f64()
}

async fn raw_down() -> f64 {
    let mut stream = dial().await;
    let begun = Instant::now();
    stream.write_all(b"d").await.unwrap();
    let came = count(stream.take(BYTES)).await;
    assert_eq!(came, BYTES);
    begun.elapsed().as_secs_f64()
}

async fn count(mut source: impl AsyncRead + Unpin) -> u64 {
    let (mut came, mut chunk) = (0, vec![0; 64 << 10]);
    loop {
        match source.read(&mut chunk).await.unwrap() {
            0 => return came,
            read => came += read as u64,
        }
    }
}

async fn up(session: &Session) -> f64 {
    let begun = Instant::now();
    let mut upload = session.put().await.unwrap();
    upload.file(FILE, 0o600, BYTES, repeat(7).take(BYTES)).await.unwrap();
    upload.finish(10 * LIMIT).await.unwrap();
    begun.elapsed().as_secs_f64()
}

async fn down(session: &Session) -> f64 {
    let begun = Instant::now();
    let limits = GetLimits { files_max: 1, file_max_bytes: BYTES, total_max_bytes: BYTES };
    let mut download = session.get(vec![FILE.to_owned()], limits).await.unwrap();
    let mut came = 0;
    while download.next().await.unwrap().is_some() {
        while let Piece::Data(data) = download.piece().await.unwrap() {
            came += data.len() as u64;
        }
    }
    assert_eq!(came, BYTES);
    begun.elapsed().as_secs_f64()
}

pub(super) async fn measure(firecracker: &Firecracker) {
    let restored = firecracker.restore(&slot(0), &identity(0)).await.unwrap();
    // Nothing runs as root after the wake.
    let session = connect(firecracker, &restored.vm).await;
    run_as(&session, User::Root, &server()).await.unwrap();
    drop(session);
    let session = wake(firecracker, &restored.vm, 0).await;
    let (mut ups, mut downs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (ours_up, raw_up) = (up(&session).await, raw_up().await);
        let (ours_down, raw_down) = (down(&session).await, raw_down().await);
        println!("64 MiB, s: up {ours_up:.1}, raw {raw_up:.1}; down {ours_down:.1}, raw {raw_down:.1}");
        ups.push(ours_up / raw_up);
        downs.push(ours_down / raw_down);
    }
    println!("bench: 64 MiB up over a raw copy by the same socket: {:.2}", median(ups));
    println!("bench: 64 MiB down over a raw copy by the same socket: {:.2}", median(downs));
    drop(session);
    firecracker.destroy(&slot(0), Some(restored.vm)).await.unwrap();
}

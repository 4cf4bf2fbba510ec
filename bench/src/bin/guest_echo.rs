//! The floor inside a guest: a vsock server that echoes, swallows or makes bytes, or starts a process, with nothing
//! around it.
//!
//! A request is one byte and, to swallow, make or start several, a number (`u64`, little endian). See `hearth_bench::floor`.

use std::{
    io::{ErrorKind, Read, Result, Write},
    process::Command,
    thread,
};

use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

/// Where it listens.
const PORT: u32 = 5001;
const CHUNK_BYTES: usize = 64 * 1024;

fn main() -> Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT)?;
    loop {
        let (stream, _) = listener.accept()?;
        thread::spawn(move || serve(stream));
    }
}

fn serve(mut stream: VsockStream) -> Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let mut request = [0];
        match stream.read_exact(&mut request) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        match request {
            [b'E'] => stream.write_all(&request)?,
            [b'X'] => {
                let status = Command::new("/bin/true").status()?;
                stream.write_all(&[u8::from(!status.success())])?;
            }
            [b'S'] => {
                // One after another, with nothing said in between.
                for _ in 0..length(&mut stream)? {
                    let status = Command::new("/bin/true").status()?;
                    if !status.success() {
                        return Err(ErrorKind::Other.into());
                    }
                }
                stream.write_all(&request)?;
            }
            [b'U'] => {
                let length = length(&mut stream)?;
                swallow(&mut stream, length, &mut chunk)?;
                stream.write_all(&request)?;
            }
            [b'D'] => {
                let length = length(&mut stream)?;
                make(&mut stream, length, &chunk)?;
            }
            _ => return Err(ErrorKind::InvalidInput.into()),
        }
    }
}

fn length(stream: &mut VsockStream) -> Result<u64> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    Ok(u64::from_le_bytes(length))
}

fn swallow(stream: &mut VsockStream, mut left: u64, chunk: &mut [u8]) -> Result<()> {
    while left > 0 {
        let read = stream.read(chunk)?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(read as u64);
    }
    Ok(())
}

fn make(stream: &mut VsockStream, mut left: u64, chunk: &[u8]) -> Result<()> {
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        stream.write_all(chunk.get(..length).unwrap_or_default())?;
        left = left.saturating_sub(length as u64);
    }
    Ok(())
}

//! What an Azure server is told before Hearth comes: which containers there are, and what is in them.

use std::process::Command;

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The account that every such server has.
pub(super) const ACCOUNT: &str = "devstoreaccount1";
/// Its well-known key, which is no secret.
pub(super) const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes a container.
pub(super) async fn container(port: u16, name: &str) -> Result<()> {
    put(port, name, Some("container"), &[]).await
}

/// Puts an object into one.
pub(super) async fn blob(port: u16, container: &str, key: &str, bytes: &[u8]) -> Result<()> {
    put(port, &format!("{container}/{}", key.replace(' ', "%20")), None, bytes).await
}

/// One signed request.
async fn put(port: u16, what: &str, restype: Option<&str>, body: &[u8]) -> Result<()> {
    let date = Command::new("date").args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C").output()?;
    let date = String::from_utf8(date.stdout)?.trim().to_owned();
    let mut headers = vec![("x-ms-date", date.as_str()), ("x-ms-version", "2021-08-06")];
    if restype.is_none() {
        headers.insert(0, ("x-ms-blob-type", "BlockBlob"));
    }
    let written = |between: &str, after: &str| -> String {
        headers.iter().map(|(name, value)| format!("{name}{between}{value}{after}")).collect()
    };
    let resource = restype.map_or_else(String::new, |restype| format!("\nrestype:{restype}"));
    let length = if body.is_empty() { String::new() } else { body.len().to_string() };
    let signed = format!(
        "PUT\n\n\n{length}\n\n\n\n\n\n\n\n\n{}/{ACCOUNT}/{ACCOUNT}/{what}{resource}",
        written(":", "\n")
    );
    let signature = STANDARD.encode(hmac(&STANDARD.decode(KEY)?, signed.as_bytes()));
    let query = restype.map_or_else(String::new, |restype| format!("?restype={restype}"));
    let head = format!(
        "PUT /{ACCOUNT}/{what}{query} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{}\
         authorization: SharedKey {ACCOUNT}:{signature}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        written(": ", "\r\n"),
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    Ok(())
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

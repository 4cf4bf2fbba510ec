//! Objects in a folder, on a real S3 server and on a real Azure server. GCS is configured in the same way and untested:
//! there is no server of its own to be installed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

use std::time::Duration;

use bytes::Bytes;
use hearth_schemas::{reference::Reference, result::Reduced};
use hearth_tests::{objects::Stores, wait::until};
use hearth_worker::{
    admit::{Content, JobFile, ObjectInput},
    ledger::JobKey,
    objects::{FetchError, Objects, StoreSettings},
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// More than two parts of a multipart upload.
const LARGE_BYTES: usize = 11 << 20;

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n % 251) as u8).collect()
}

fn file(object: &str, sha256: [u8; 32], size: usize) -> [JobFile; 1] {
    let reference = Reference::parse(object).unwrap();
    let field = "files[0].object".to_owned();
    let content = Content::Object(ObjectInput { reference, sha256, size: size as u64, field });
    [JobFile { path: "f".into(), mode: 0o644, content }]
}

struct Setup {
    stores: Stores,
    objects: Objects,
    spool: TempDir,
}

impl Setup {
    fn new(stores: Stores) -> Self {
        let spool = tempfile::tempdir().unwrap();
        let objects = Objects::open(&stores.settings().unwrap(), spool.path().to_owned()).unwrap();
        Self { stores, objects, spool }
    }

    async fn fetch(&self, object: &str, bytes: &[u8]) -> Result<(), FetchError> {
        self.objects.fetch(&file(object, sha256(bytes), bytes.len())).await.map(drop)
    }

    async fn keep(&self, path: &str, bytes: &[u8]) -> String {
        let job = JobKey { tenant: "alice".into(), id: "j".into() };
        let mut keeping = self.objects.keep(&job, "1-x", 0, path).await.unwrap().unwrap();
        for piece in bytes.chunks(32 * 1024) {
            keeping.piece(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        keeping.finish().await.unwrap().to_string()
    }
}

/// What every store does.
async fn holds(setup: &Setup) {
    let (small, large) = (content(10), content(LARGE_BYTES));
    for bytes in [&[][..], &small, &large] {
        setup.stores.put("alice/some/in put.bin", bytes).await.unwrap();
        setup.fetch(&setup.stores.input("alice/some/in put.bin"), bytes).await.unwrap();
        let path = format!("out/{}.bin", bytes.len());
        let kept = setup.keep(&path, bytes).await;
        assert!(kept.ends_with(&format!("://outputs/kept/alice/j/1-x/{path}")), "{kept}");
        setup.fetch(&kept, bytes).await.expect("what is kept is what came");
    }
    let input = setup.stores.input("alice/some/in put.bin");
    let said = |error: FetchError| match error {
        FetchError::Job(said) => said,
        ours => panic!("{ours:?}"),
    };
    let fetch = async |object: &str, sha256, size| {
        said(setup.objects.fetch(&file(object, sha256, size)).await.map(drop).unwrap_err())
    };
    let other = fetch(&input, sha256(b"other"), LARGE_BYTES).await;
    assert!(other.contains("does not have the SHA-256 that the job says"), "{other}");
    for size in [LARGE_BYTES - 1, LARGE_BYTES + 1] {
        let wrong = fetch(&input, sha256(&large), size).await;
        assert!(wrong.contains(&format!("{size} bytes, not {LARGE_BYTES}")), "{wrong}");
    }
    let missing = setup.stores.input("alice/none");
    let none = fetch(&missing, sha256(b""), 0).await;
    assert_eq!(none, format!("files[0].object: {missing} is not there"));
    // It changes between two jobs, with the same size.
    let mut changed = large.clone();
    changed[5] ^= 1;
    setup.stores.put("alice/some/in put.bin", &changed).await.unwrap();
    let stale = fetch(&input, sha256(&large), LARGE_BYTES).await;
    assert!(stale.contains("SHA-256"), "{stale}");
    assert_eq!(std::fs::read_dir(setup.spool.path()).unwrap().count(), 0, "the spool has no names");
}

/// A result that no message carries is read back as it was.
async fn keeps_results(setup: &Setup) {
    let job = JobKey { tenant: "alice".into(), id: "j".into() };
    for bytes in [content(70_000), content(LARGE_BYTES)] {
        let attempt = format!("{}-x", bytes.len());
        let body = Bytes::from(bytes);
        let kept = setup.objects.keep_result(&job, &attempt, body.clone()).await.unwrap().unwrap();
        let sha256: String = sha256(&body).iter().map(|byte| format!("{byte:02x}")).collect();
        let size_bytes = body.len() as u64;
        let reduced = Reduced::ByReference { object: kept.to_string(), sha256, size_bytes };
        assert_eq!(setup.objects.result(&reduced).await.unwrap(), body);
        assert!(kept.to_string().ends_with(&format!("/kept/alice/j/{attempt}/_result.json")), "{kept}");
    }
}

/// What is given up before its end never appears.
async fn leaves_nothing_half_done(setup: &Setup) {
    let job = JobKey { tenant: "alice".into(), id: "j".into() };
    let mut keeping = setup.objects.keep(&job, "2-y", 0, "half").await.unwrap().unwrap();
    keeping.piece(Bytes::from(content(LARGE_BYTES))).await.unwrap();
    drop(keeping);
    let name = setup.stores.input("x").replace("inputs/x", "outputs/kept/alice/j/2-y/half");
    until(Duration::from_secs(20), "it is not there", async || {
        matches!(setup.fetch(&name, b"").await, Err(FetchError::Job(said)) if said.ends_with("is not there"))
    })
    .await;
}

/// A server that is away is our fault, and one that is back is as good as before.
async fn survives_an_outage(mut setup: Setup) {
    let bytes = content(1000);
    setup.stores.put("alice/x", &bytes).await.unwrap();
    let input = setup.stores.input("alice/x");
    setup.stores.stop();
    let away = setup.fetch(&input, &bytes).await.unwrap_err();
    assert!(matches!(away, FetchError::Ours { .. }), "{away:?}");
    let job = JobKey { tenant: "alice".into(), id: "j".into() };
    let mut keeping = setup.objects.keep(&job, "3-z", 0, "f").await.unwrap().unwrap();
    keeping.piece(Bytes::from_static(b"x")).await.unwrap();
    assert!(keeping.finish().await.is_err());
    setup.stores.start().await.unwrap();
    setup.fetch(&input, &bytes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder() {
    let setup = Setup::new(Stores::folder().unwrap());
    holds(&setup).await;
    keeps_results(&setup).await;
    leaves_nothing_half_done(&setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3() {
    let Some(stores) = Stores::s3().await.unwrap() else { return };
    let setup = Setup::new(stores);
    holds(&setup).await;
    keeps_results(&setup).await;
    leaves_nothing_half_done(&setup).await;
    survives_an_outage(setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure() {
    let Some(stores) = Stores::azure().await.unwrap() else { return };
    let setup = Setup::new(stores);
    holds(&setup).await;
    keeps_results(&setup).await;
    leaves_nothing_half_done(&setup).await;
    survives_an_outage(setup).await;
}

/// What a store denies this worker is told of the job, without a word of the credentials.
#[tokio::test(flavor = "multi_thread")]
async fn access_denied() {
    for stores in [Stores::s3().await.unwrap(), Stores::azure().await.unwrap()].into_iter().flatten() {
        stores.put("alice/x", b"x").await.unwrap();
        let mut settings = stores.settings().unwrap();
        for store in settings.stores.values_mut() {
            let StoreSettings::Remote(options) = store else { panic!("{store:?}") };
            for (key, value) in options {
                if key == "secret_access_key" || key == "access_key" {
                    *value = "c2VjcmV0LXRoYXQtaXMtd3Jvbmc=".to_owned();
                }
            }
        }
        let spool = tempfile::tempdir().unwrap();
        let objects = Objects::open(&settings, spool.path().to_owned()).unwrap();
        let denied = objects.fetch(&file(&stores.input("alice/x"), sha256(b"x"), 1)).await.unwrap_err();
        let FetchError::Job(said) = denied else { panic!("{denied:?}") };
        assert!(said.ends_with("may not be read by this worker"), "{said}");
    }
}

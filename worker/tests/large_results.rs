//! Results that are too large for a message: whole jobs over fake VMs, with a folder for what does not fit, and without.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod rig;

use std::{fs, path::PathBuf};

use hearth_pool::fakes::Ran;
use hearth_schemas::result::{JobResult, Omitted, OutputContent, Reduced, Verdict};
use hearth_worker::{
    intake::Intake,
    objects::{ObjectSettings, Objects},
    reduce::ResultTerms,
};
use rig::Rig;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What the broker carries in these tests.
const MESSAGE_MAX: usize = 4 << 20;

struct Setup {
    rig: Rig,
    objects: Objects,
    root: TempDir,
}

impl Setup {
    /// A worker whose jobs print this much, and leave as many files of 60 KiB as they are asked for.
    fn new(printed: usize, store: bool) -> Self {
        let text: String = (0..)
            .map(|n| format!("{n}\n"))
            .scan(0, |sum, line| {
                *sum += line.len();
                (*sum <= printed).then_some(line)
            })
            .collect();
        let mut rig = Rig::new(1, move |_| Ran {
            files: (0..60).map(|n| (format!("o{n:02}"), vec![1; 60 << 10].into())).collect(),
            ..Ran::prints(text.clone())
        });
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("store")).unwrap();
        let text = format!(
            "[objects.stores.\"file://out\"]\nfolder = \"{}\"\n[objects.outputs]\nto = \"file://out/kept\"\n",
            root.path().join("store").display()
        );
        let settings = ObjectSettings::parse(if store { &text } else { "" }, &|_| None).unwrap();
        let objects = Objects::open(&settings, root.path().join("spool")).unwrap();
        let terms = rig.service.intake().terms.clone();
        let results = Some(ResultTerms { message_max_bytes: MESSAGE_MAX });
        let intake = Intake { objects: objects.clone(), results, ..Intake::embedded(terms, "w1") };
        rig.service.set_intake(intake);
        rig.serve();
        Self { rig, objects, root }
    }

    fn job(outputs: usize) -> Value {
        let outputs: Vec<_> = (0..outputs).map(|n| format!("o{n:02}")).collect();
        json!({"id": "j", "tenant": "alice", "runtime": "python", "code": "x", "outputs": outputs})
    }

    /// The result of such a job, and its size as a message.
    async fn run(&self, outputs: usize) -> (JobResult, usize) {
        let result = self.rig.submit(Self::job(outputs)).await;
        let published = self.rig.published();
        let body = published.last().unwrap();
        assert_eq!(serde_json::from_slice::<JobResult>(body).unwrap(), result);
        assert_eq!(result.verdict, Some(Verdict::Accepted));
        (result, body.len())
    }

    fn kept(&self) -> Vec<PathBuf> {
        let job = self.root.path().join("store/kept/alice/j");
        let attempts = fs::read_dir(job).into_iter().flatten();
        attempts
            .flat_map(|attempt| fs::read_dir(attempt.unwrap().path()).unwrap())
            .map(|file| file.unwrap().path())
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_result_goes_whole() {
    let mut setup = Setup::new(10_000, true);
    let (result, size) = setup.run(0).await;
    assert!(result.reduced.is_none() && size < 64 << 10);
    assert_eq!(setup.kept(), Vec::<PathBuf>::new());
    setup.rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_result_is_kept_in_the_store_and_its_message_says_where() {
    let mut setup = Setup::new(120_000, true);
    let (short, size) = setup.run(40).await;
    assert!(size <= 64 << 10, "{size}");
    let Some(reduced @ Reduced::ByReference { object, size_bytes, .. }) = &short.reduced else {
        panic!("{:?}", short.reduced)
    };
    assert!(
        object.starts_with("file://out/kept/alice/j/1-") && object.ends_with("/_result.json"),
        "{object}"
    );
    assert!(*size_bytes > 40 * (60 << 10));
    // What stays says what there was.
    let stdout = &short.stages[0].run.stdout;
    assert!(stdout.truncated_bytes > 0 && stdout.tail.is_some());
    assert!(
        short.outputs.iter().all(|output| output.content == OutputContent::Omitted(Omitted::ByReference))
    );
    let bytes = setup.objects.result(reduced).await.unwrap();
    let whole: JobResult = serde_json::from_slice(&bytes).unwrap();
    assert!(whole.reduced.is_none() && whole.stages[0].run.stdout.truncated_bytes == 0);
    assert_eq!((whole.outputs.len(), whole.stages[0].run.stdout.bytes), (40, stdout.bytes));
    let text = "\u{1}".repeat(60 << 10);
    assert!(whole.outputs.iter().all(|output| output.content == OutputContent::Text(text.clone())));
    assert_eq!(
        whole.outputs.iter().map(|output| &output.sha256).collect::<Vec<_>>(),
        short.outputs.iter().map(|output| &output.sha256).collect::<Vec<_>>()
    );
    // What the ledger keeps is what was sent: asked again, it is the same bytes, and nothing is kept twice.
    let (again, same) = setup.run(40).await;
    assert_eq!((again, same, setup.kept().len(), setup.rig.runs()), (short, size, 1, 1));
    setup.rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_as_the_message_says_is_not_believed() {
    let mut setup = Setup::new(120_000, true);
    let (short, _) = setup.run(40).await;
    let reduced = short.reduced.unwrap();
    let Reduced::ByReference { object, sha256, size_bytes } = reduced.clone() else { panic!("{reduced:?}") };
    for (object, sha256, size_bytes, said) in [
        (object.clone(), "0".repeat(64), size_bytes, "SHA-256"),
        (object.clone(), sha256.clone(), size_bytes + 1, "size"),
        (object.clone(), sha256.clone(), u64::MAX, "size_bytes"),
        ("file://out/none".to_owned(), sha256.clone(), size_bytes, "is not there"),
        ("s3://other/x".to_owned(), sha256.clone(), size_bytes, "no store that is configured"),
        ("nonsense".to_owned(), sha256, size_bytes, "reduced.object"),
    ] {
        let error =
            setup.objects.result(&Reduced::ByReference { object, sha256, size_bytes }).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}: {said}");
    }
    let [kept] = &setup.kept()[..] else { panic!("one is kept") };
    let mut changed = fs::read(kept).unwrap();
    changed[100] ^= 1;
    fs::write(kept, changed).unwrap();
    assert!(setup.objects.result(&reduced).await.unwrap_err().to_string().contains("SHA-256"));
    setup.rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_store_only_what_no_message_carries_is_cut() {
    let mut setup = Setup::new(120_000, false);
    // Large for a ledger, and all that there is.
    let (whole, size) = setup.run(5).await;
    assert!(whole.reduced.is_none() && size > 64 << 10 && size <= MESSAGE_MAX);
    setup.rig.check().await;

    let mut setup = Setup::new(120_000, false);
    let (cut, size) = setup.run(60).await;
    let Some(Reduced::Cut { size_bytes }) = cut.reduced else { panic!("{:?}", cut.reduced) };
    assert!(size <= MESSAGE_MAX && size_bytes > MESSAGE_MAX as u64, "{size} of {size_bytes}");
    assert_eq!(cut.outputs.len(), 60, "sizes and digests of all stay");
    assert!(cut.outputs.iter().any(|output| output.content == OutputContent::Omitted(Omitted::NoRoom)));
    setup.rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_costs_nothing_that_fits_the_message() {
    for (outputs, fits) in [(5, true), (60, false)] {
        let mut setup = Setup::new(120_000, true);
        fs::remove_dir(setup.root.path().join("store")).unwrap();
        let (result, size) = setup.run(outputs).await;
        assert!(size <= MESSAGE_MAX);
        match (&result.reduced, fits) {
            (None, true) | (Some(Reduced::Cut { .. }), false) => {}
            (other, _) => panic!("{other:?}"),
        }
        setup.rig.check().await;
    }
}

//! Every example of `schemas/examples` comes to what `EXPECTED.toml` beside it says.

use std::collections::BTreeMap;

use hearth_tests::{
    examples::{Example, examples},
    real::Worker,
};

use crate::{machine, room};

#[tokio::test(flavor = "multi_thread")]
async fn every_example_comes_to_what_is_expected() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    let mut by_runtime = BTreeMap::<String, Vec<(Example, serde_json::Value)>>::new();
    for example in examples() {
        let job: serde_json::Value = serde_json::from_slice(&example.request).unwrap();
        by_runtime.entry(job["runtime"].as_str().unwrap().to_owned()).or_default().push((example, job));
    }
    for (runtime, jobs) in by_runtime {
        let worker = Worker::open(machine, &[(&runtime, 1)]).await.unwrap();
        for (example, job) in jobs {
            let result = worker.run(&job).await.unwrap();
            let differences = example.expected.differences(&result);
            assert!(differences.is_empty(), "{}: {differences:#?}\n{result:#?}", example.name);
        }
        worker.close().await.unwrap();
    }
}

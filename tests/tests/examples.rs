//! Every example is known, and would be taken by the runtimes that we ship.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use std::{collections::BTreeMap, fs};

use hearth_schemas::{
    job,
    manifest::Entry,
    result::{JobResult, Status},
};
use hearth_tests::{examples::examples, workspace};
use hearth_worker::admit::{Offer, Producer, Terms, admit};

/// What `deploy/runtimes/` offers.
fn shipped() -> Terms {
    let offer = |(name, vm_memory_mib): (&str, u64)| {
        let recipe = fs::read_to_string(workspace().join(format!("deploy/runtimes/{name}.toml"))).unwrap();
        let recipe: toml::Table = recipe.parse().unwrap();
        let number = |key: &str| u64::try_from(recipe.get(key).unwrap().as_integer().unwrap()).unwrap();
        assert_eq!(number("vm_memory_mib"), vm_memory_mib, "{name}");
        let entry: Entry = recipe.get("entry").unwrap().clone().try_into().unwrap();
        let languages = recipe.get("languages").map(|languages| languages.clone().try_into().unwrap());
        let (scratch_mib, languages) = (number("scratch_mib"), languages.unwrap_or_default());
        (name.to_owned(), Offer { vm_memory_mib, scratch_mib, entry, languages })
    };
    Terms::new(BTreeMap::from([("python", 384), ("gcc", 512), ("node", 512), ("bash", 256)].map(offer)))
}

#[test]
fn every_example_is_expected_and_admitted() {
    let examples = examples();
    let files = fs::read_dir(workspace().join("schemas/examples")).unwrap();
    let files = files.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "json"));
    assert_eq!(files.count(), examples.len(), "EXPECTED.toml has a table for every example");
    let producer = Producer { fallback_id: "made-up", tenant: "default", may_name_tenant: false };
    for example in examples {
        let admitted = job::parse(&example.request)
            .map_err(Into::into)
            .and_then(|request| admit(request, &shipped(), &producer));
        let job = admitted.unwrap_or_else(|refusal| panic!("{}: {refusal}", example.name));
        assert!(job.key.id == example.name || job.key.id == "made-up");
        let nothing = JobResult::new("j", "t", "python", Status::Expired);
        assert!(example.expected.differences(&nothing).len() >= 3, "{}", example.name);
    }
}

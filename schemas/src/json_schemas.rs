//! The JSON Schemas of everything that people write or read by hand. The files in `schemas/json/` are these, and a
//! test fails when they are stale.

use schemars::{JsonSchema, generate::SchemaSettings};

use crate::{event::Event, job::JobRequest, manifest::Manifest, result::JobResult};

/// Name and text of every schema: `job`, `result`, `event`, `manifest`. The text is pretty and ends with a newline.
pub fn json_schemas() -> [(&'static str, String); 4] {
    [
        ("job", schema::<JobRequest>()),
        ("result", schema::<JobResult>()),
        ("event", schema::<Event>()),
        ("manifest", schema::<Manifest>()),
    ]
}

fn schema<T: JsonSchema>() -> String {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    // The alternate form of `Value` prints pretty and cannot fail.
    format!("{:#}\n", schema.as_value())
}

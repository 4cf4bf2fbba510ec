//! The table `[objects]`.

use std::{collections::BTreeMap, fmt::Display, path::PathBuf};

use hearth_schemas::{
    job::is_name,
    reference::{Prefix, Scheme, StoreName},
};
use toml::{Table, Value};

use super::{
    BadSettings,
    read::{Mistakes, Overrides, Section},
};
use crate::{
    admit::EVERY_TENANT,
    objects::{ObjectSettings, OutputSettings, StoreSettings, knows},
};

const MIB: u64 = 1 << 20;
const MAX_MIB: u64 = 1 << 24;

impl ObjectSettings {
    /// Reads the table `[objects]` of a file's text, and nothing else of it.
    ///
    /// # Errors
    /// All mistakes.
    pub fn parse(text: &str, overrides: Overrides<'_>) -> Result<Self, BadSettings> {
        let mut whole: Table =
            text.parse().map_err(|error| BadSettings(vec![format!("not TOML: {error}")]))?;
        let mut mistakes = Mistakes::default();
        let settings = objects(Section::take(&mut whole, "objects", overrides, &mut mistakes), &mut mistakes);
        if mistakes.0.is_empty() { Ok(settings) } else { Err(BadSettings(mistakes.0)) }
    }
}

pub(super) fn objects(mut section: Section<'_>, mistakes: &mut Mistakes) -> ObjectSettings {
    let usual = ObjectSettings::default();
    let stores = section.field("stores", mistakes, stores).unwrap_or_default();
    let tenants = section.field("tenants", mistakes, tenants).unwrap_or_default();
    let outputs = section.field("outputs", mistakes, outputs);
    let spool_mib = section.number("spool_mib", (1, MAX_MIB), usual.spool_max_bytes / MIB, mistakes);
    let job_mib = usual.job_max_bytes / MIB;
    let job_mib = section.number("job_max_mib", (1, spool_mib), job_mib.min(spool_mib), mistakes);
    section.end(mistakes);
    let used = tenants.values().flatten().chain(outputs.iter().map(|outputs| &outputs.below));
    for prefix in used {
        if !stores.contains_key(&prefix.store) {
            let what = format!("`{}` is of no store that is configured", prefix.shown("{tenant}"));
            mistakes.note("objects", format!("{what}; add [objects.stores.\"{}\"]", prefix.store));
        }
    }
    let (job_max_bytes, spool_max_bytes) = (job_mib * MIB, spool_mib * MIB);
    ObjectSettings { stores, tenants, job_max_bytes, spool_max_bytes, outputs }
}

fn stores(value: &Value) -> Result<BTreeMap<StoreName, StoreSettings>, String> {
    let mut read = BTreeMap::new();
    for (name, value) in table(value, "a table for each store, such as [objects.stores.\"s3://bucket\"]")? {
        let store = StoreName::parse(name).map_err(|error| format!("`{name}` {error}"))?;
        let settings = store_settings(&store, value).map_err(|what| format!("`{name}`: {what}"))?;
        read.insert(store, settings);
    }
    Ok(read)
}

fn store_settings(store: &StoreName, value: &Value) -> Result<StoreSettings, String> {
    let members = table(value, "a table")?;
    if store.scheme == Scheme::File {
        let folder = members.get("folder").and_then(Value::as_str).map(PathBuf::from);
        let folder = folder.filter(|folder| folder.is_absolute() && members.len() == 1);
        return folder.map(StoreSettings::Folder).ok_or_else(|| {
            "allowed is `folder` and nothing else, a path from the root of this host".to_owned()
        });
    }
    let mut options = BTreeMap::new();
    for (key, value) in members {
        if !knows(store.scheme, key) {
            return Err(format!("`{key}` is no option of a {}:// store", store.scheme.as_str()));
        }
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Boolean(_) | Value::Integer(_) => value.to_string(),
            // Not shown: it may be a secret.
            other => return Err(format!("`{key}` is a {}; allowed is a text", other.type_str())),
        };
        options.insert(key.clone(), text);
    }
    Ok(StoreSettings::Remote(options))
}

fn tenants(value: &Value) -> Result<BTreeMap<String, Vec<Prefix>>, String> {
    let mut read = BTreeMap::new();
    for (name, value) in table(value, "a table from tenants to lists of prefixes")? {
        if !is_name(name) && name != EVERY_TENANT {
            return Err(format!(
                "{name:?} is no tenant; allowed are names, and \"{EVERY_TENANT}\" for every tenant"
            ));
        }
        let wrong =
            || format!("{name}: {value} given; allowed is a list of prefixes such as \"s3://bucket/folder\"");
        let mut prefixes = Vec::new();
        for text in value.as_array().ok_or_else(wrong)? {
            prefixes
                .push(prefix(text.as_str().ok_or_else(wrong)?).map_err(|error| format!("{name}: {error}"))?);
        }
        read.insert(name.clone(), prefixes);
    }
    Ok(read)
}

fn outputs(value: &Value) -> Result<OutputSettings, String> {
    let members = table(value, "a table")?;
    let below = members.get("to").and_then(Value::as_str).map(prefix);
    let below = below
        .unwrap_or_else(|| Err("`to` is missing; it is a prefix such as \"s3://bucket/folder\"".into()))?;
    let mut read = OutputSettings::new(below);
    let mut result_max_bytes = read.result_max_bytes as u64;
    for (key, value) in members {
        let (place, unit) = match key.as_str() {
            "to" => continue,
            "inline_kib" => (&mut read.inline_max_bytes, 1024),
            "result_kib" => (&mut result_max_bytes, 1024),
            "file_max_mib" => (&mut read.file_max_bytes, MIB),
            "job_max_mib" => (&mut read.job_max_bytes, MIB),
            _ => {
                return Err(format!(
                    "`{key}` is not known; known are to, inline_kib, result_kib, file_max_mib, job_max_mib"
                ));
            }
        };
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
        let number = number.filter(|number| *number <= MAX_MIB);
        *place = number.ok_or_else(|| {
            format!("`{key}`: {value} given; allowed is a whole number from 0 to {MAX_MIB}")
        })? * unit;
    }
    read.result_max_bytes = usize::try_from(result_max_bytes).unwrap_or(usize::MAX);
    read.inline_max_bytes = read.inline_max_bytes.min(hearth_schemas::limits::INLINE_OUTPUT_MAX_BYTES);
    Ok(read)
}

fn prefix(text: &str) -> Result<Prefix, String> {
    Prefix::parse(text).map_err(|error| format!("`{text}` {error}"))
}

fn table(value: &Value, allowed: impl Display) -> Result<&Table, String> {
    value.as_table().ok_or_else(|| format!("is a {}; allowed is {allowed}", value.type_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ObjectSettings, BadSettings> {
        ObjectSettings::parse(text, &|_| None)
    }

    #[test]
    fn stores_tenants_and_outputs_are_read() {
        let settings = parse(
            r#"
            [objects]
            job_max_mib = 100
            [objects.stores."s3://in"]
            endpoint = "http://localhost:9000"
            secret_access_key = "hush"
            [objects.stores."file://shared"]
            folder = "/srv/shared"
            [objects.tenants]
            alice = ["s3://in/alice", "file://shared"]
            "*" = ["file://shared/{tenant}"]
            [objects.outputs]
            to = "s3://in/out/"
            inline_kib = 1
            "#,
        )
        .unwrap();
        assert_eq!((settings.stores.len(), settings.tenants["alice"].len()), (2, 2));
        assert_eq!((settings.job_max_bytes, settings.spool_max_bytes), (100 * MIB, 4096 * MIB));
        let outputs = settings.outputs.clone().unwrap();
        assert_eq!((outputs.below.shown("t").as_str(), outputs.inline_max_bytes), ("s3://in/out", 1024));
        assert!(!format!("{settings:?}").contains("hush"), "a secret is not printed");
        assert_eq!(parse("[broker]\nurl = \"x\"\n").unwrap(), ObjectSettings::default());
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_allowed() {
        for (text, said) in [
            ("[objects.stores.in]", "has no known scheme"),
            ("[objects.stores.\"s3://a/b\"]", "name of a store"),
            ("[objects.stores.\"s3://a\"]\ncolor = \"red\"", "`color` is no option of a s3:// store"),
            ("[objects.stores.\"s3://a\"]\nregion = []", "`region` is a array"),
            ("[objects.stores.\"file://a\"]\nfolder = \"relative\"", "a path from the root"),
            ("[objects.stores.\"file://a\"]\nfolder = \"/a\"\nregion = \"x\"", "nothing else"),
            ("[objects.tenants]\nalice = [\"s3://a/../b\"]", "contains `..`"),
            ("[objects.tenants]\nalice = [\"s3://a\"]", "of no store that is configured"),
            ("[objects.tenants]\n\"a b\" = []", "is no tenant"),
            ("[objects.outputs]\ninline_kib = 1", "`to` is missing"),
            ("[objects.outputs]\nto = \"s3://a\"\nfast = true", "`fast` is not known"),
            ("[objects]\njob_max_mib = 5\nspool_mib = 4", "from 1 to 4"),
            ("[objects]\nother = 1", "objects.other: is not known"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}

//! Files by reference: whether this tenant may, and what the job vouches for. Pure.

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::{
    job::InputFile,
    reference::{Prefix, Reference, StoreName},
    result::Refusal,
};

use super::{invalid, too_large};

/// Under which name prefixes for every tenant are kept.
pub const EVERY_TENANT: &str = "*";

/// Which objects jobs may name. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectTerms {
    /// The stores that are configured.
    pub stores: BTreeSet<StoreName>,
    /// What each tenant may read; [`EVERY_TENANT`] is for all of them.
    pub tenants: BTreeMap<String, Vec<Prefix>>,
    /// Size of all objects of one job together, at most, in bytes.
    pub total_max_bytes: u64,
}

impl ObjectTerms {
    /// What a tenant may read.
    fn of(&self, tenant: &str) -> impl Iterator<Item = &Prefix> {
        let of = |name: &str| self.tenants.get(name).into_iter().flatten();
        of(tenant).chain(of(EVERY_TENANT)).filter(|prefix| self.stores.contains(&prefix.store))
    }

    fn allowed(&self, tenant: &str) -> String {
        let prefixes: Vec<_> = self.of(tenant).map(|prefix| format!("{}/", prefix.shown(tenant))).collect();
        match prefixes.is_empty() {
            true => format!("the operator allows tenant `{tenant}` no objects"),
            false => format!("allowed for tenant `{tenant}` is what is below {}", prefixes.join(", ")),
        }
    }
}

/// An object that a job may have, and what the job vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInput {
    /// Which.
    pub reference: Reference,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Its size in bytes.
    pub size: u64,
    /// The field that names it, for what is said of it later.
    pub field: String,
}

/// Checks one reference; `member` is the field that has it.
pub(super) fn object(
    file: &InputFile,
    text: &str,
    member: &str,
    within: impl Fn(&str) -> String,
    (terms, tenant): (&ObjectTerms, &str),
) -> Result<ObjectInput, Refusal> {
    let field = within(member);
    let reference = Reference::parse(text).map_err(|error| invalid(&field, error.to_string()))?;
    if !terms.of(tenant).any(|prefix| prefix.covers(&reference, tenant)) {
        return Err(invalid(field, format!("`{reference}` may not be read; {}", terms.allowed(tenant))));
    }
    let required = |member: &str| invalid(within(member), "is missing; it is required with an object");
    let sha256 = file.sha256.as_deref().ok_or_else(|| required("sha256"))?;
    let sha256 = unhex(sha256).ok_or_else(|| {
        invalid(within("sha256"), "is no SHA-256; allowed are 64 hexadecimal digits, in lower case")
    })?;
    let size = file.size.ok_or_else(|| required("size"))?;
    if size > terms.total_max_bytes {
        let message =
            format!("an object of {size} bytes; allowed are 0 to {} for a job", terms.total_max_bytes);
        return Err(too_large(within("size"), message));
    }
    Ok(ObjectInput { reference, sha256, size, field })
}

/// From hex.
pub(crate) fn unhex(hex: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut sha256 = [0; 32];
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != sha256.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in sha256.iter_mut().zip(pairs) {
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(sha256)
}

/// In hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

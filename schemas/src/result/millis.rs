//! Durations in results: milliseconds in JSON, whole microseconds inside, so that equal results have equal bytes.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A duration of whole microseconds, written as milliseconds with up to three decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis {
    micros: u64,
}

impl Millis {
    /// Thousandths of a double are exact up to here: 71 years.
    const MAX_MICROS: u64 = 1 << 51;

    /// From microseconds; anything above 71 years counts as that.
    pub fn from_micros(micros: u64) -> Self {
        Millis { micros: micros.min(Self::MAX_MICROS) }
    }

    /// The microseconds.
    pub fn as_micros(self) -> u64 {
        self.micros
    }
}

impl std::ops::Add for Millis {
    type Output = Millis;

    fn add(self, other: Millis) -> Millis {
        Millis::from_micros(self.micros.saturating_add(other.micros))
    }
}

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Self {
        Millis::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        Duration::from_micros(millis.micros)
    }
}

impl Serialize for Millis {
    #[allow(clippy::cast_precision_loss, reason = "exact up to MAX_MICROS")]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.micros as f64 / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Millis {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let millis = f64::deserialize(deserializer)?;
        let micros = (millis * 1000.0).round();
        // Written so that NaN fails as well.
        if !(0.0..=Self::MAX_MICROS as f64).contains(&micros) {
            return Err(D::Error::custom("expected milliseconds, 0 or more"));
        }
        Ok(Millis::from_micros(micros as u64))
    }
}

impl JsonSchema for Millis {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Millis".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Milliseconds, with up to three decimals.",
            "type": "number",
            "minimum": 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_microsecond_survives_json(micros in 0..=Millis::MAX_MICROS) {
            let json = serde_json::to_string(&Millis::from_micros(micros)).unwrap();
            let back: Millis = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(back.as_micros(), micros);
        }
    }

    #[test]
    fn written_as_people_write_it() {
        assert_eq!(serde_json::to_string(&Millis::from_micros(12_345)).unwrap(), "12.345");
        assert_eq!(serde_json::to_string(&Millis::from_micros(u64::MAX)).unwrap(), "2251799813685.248");
        assert!(serde_json::from_str::<Millis>("-1").is_err());
        assert!(serde_json::from_str::<Millis>("1e300").is_err());
    }
}

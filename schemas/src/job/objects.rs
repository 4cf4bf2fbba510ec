//! What the contract writes in one way, and serde's derive would read in several.
//!
//! An object is no array: by position, a job would mean something else after the next field. A word is a word.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        Error, IgnoredAny, MapAccess, Visitor,
        value::{MapAccessDeserializer, StrDeserializer},
    },
};

/// A `T` that was written as a JSON object.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Object)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

pub(super) fn object<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Object::deserialize(deserializer).map(|Object(value)| value)
}

pub(super) fn optional_object<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<Object<T>>::deserialize(deserializer).map(|value| value.map(|Object(value)| value))
}

pub(super) fn objects<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(value)| value).collect())
}

/// A choice, written as a word or, where it has more to say, as an object of one member. What serde derives also
/// takes `{"word": null}`, which no schema does.
pub(super) trait Choice {
    /// Whether this one is written as a word.
    fn is_word(&self) -> bool;
}

struct ChoiceVisitor<T>(PhantomData<T>);

impl<'de, T: Choice + Deserialize<'de>> Visitor<'de> for ChoiceVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a word, or an object of one member")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<T, E> {
        T::deserialize(StrDeserializer::new(word))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let choice = T::deserialize(MapAccessDeserializer::new(&mut map))?;
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("has several members, expected an object of one member"));
        }
        if choice.is_word() {
            return Err(A::Error::custom("invalid type: object, expected the plain word"));
        }
        Ok(choice)
    }
}

pub(super) fn choice<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Choice + Deserialize<'de>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_any(ChoiceVisitor(PhantomData))
}

pub(super) fn optional_choice<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Choice + Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Chosen<T>(T);

    impl<'de, T: Choice + Deserialize<'de>> Deserialize<'de> for Chosen<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            choice(deserializer).map(Chosen)
        }
    }

    Option::<Chosen<T>>::deserialize(deserializer).map(|value| value.map(|Chosen(value)| value))
}

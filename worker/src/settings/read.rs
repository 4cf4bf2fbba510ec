//! Reads a table of TOML field by field, and collects what is wrong with it.

use std::fmt::Display;

use toml::{Table, Value};

/// Where a setting is overridden: the environment, or nothing in tests.
pub type Overrides<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One table that is being read.
pub(super) struct Section<'a> {
    table: Table,
    path: &'static str,
    overrides: Overrides<'a>,
    known: Vec<&'static str>,
}

/// What is wrong.
#[derive(Default)]
pub(super) struct Mistakes(pub Vec<String>);

impl Mistakes {
    pub fn note(&mut self, place: &str, what: impl Display) {
        self.0.push(format!("{place}: {what}"));
    }
}

impl<'a> Section<'a> {
    /// Takes a table out of the whole; an absent one is empty.
    pub fn take(
        whole: &mut Table,
        path: &'static str,
        overrides: Overrides<'a>,
        mistakes: &mut Mistakes,
    ) -> Self {
        let table = match whole.remove(path) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                mistakes.note(path, format!("is a {}; allowed is a table", other.type_str()));
                Table::new()
            }
        };
        Self { table, path, overrides, known: Vec::new() }
    }

    /// What it is called.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// The name of a field's variable: `HEARTH_WORKER_BROKER_URL` for `broker.url`.
    fn variable(&self, name: &str) -> String {
        format!("HEARTH_WORKER_{}_{}", self.path, name).to_uppercase()
    }

    fn value(&mut self, name: &'static str) -> Option<(String, Value)> {
        self.known.push(name);
        let written = self.table.remove(name).map(|value| (format!("{}.{name}", self.path), value));
        let variable = self.variable(name);
        let Some(text) = (self.overrides)(&variable) else { return written };
        // As TOML when it is that, so that numbers and lists can be given; else as plain text.
        let value = format!("x = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("x"));
        Some((variable, value.unwrap_or(Value::String(text))))
    }

    /// A field, read by `read`, which says what is allowed when it cannot.
    pub fn field<T>(
        &mut self,
        name: &'static str,
        mistakes: &mut Mistakes,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let (place, value) = self.value(name)?;
        match read(&value) {
            Ok(read) => Some(read),
            Err(what) => {
                mistakes.note(&place, what);
                None
            }
        }
    }

    pub fn text(&mut self, name: &'static str, mistakes: &mut Mistakes) -> Option<String> {
        self.field(name, mistakes, text)
    }

    /// A whole number within bounds.
    pub fn number(
        &mut self,
        name: &'static str,
        bounds: (u64, u64),
        default: u64,
        mistakes: &mut Mistakes,
    ) -> u64 {
        let (low, high) = bounds;
        let read = |value: &Value| {
            let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
            number
                .filter(|number| (low..=high).contains(number))
                .ok_or_else(|| format!("{value} given; allowed is a whole number from {low} to {high}"))
        };
        self.field(name, mistakes, read).unwrap_or(default)
    }

    pub fn flag(&mut self, name: &'static str, default: bool, mistakes: &mut Mistakes) -> bool {
        let read =
            |value: &Value| value.as_bool().ok_or_else(|| format!("{value} given; allowed: true, false"));
        self.field(name, mistakes, read).unwrap_or(default)
    }

    pub fn texts(&mut self, name: &'static str, mistakes: &mut Mistakes) -> Option<Vec<String>> {
        let read = |value: &Value| {
            let all = value.as_array().map(|all| all.iter().map(text).collect::<Result<Vec<_>, _>>());
            all.unwrap_or_else(|| Err(format!("{value} given; allowed is a list of texts")))
        };
        self.field(name, mistakes, read)
    }

    /// What was written and is not known.
    pub fn end(self, mistakes: &mut Mistakes) {
        for name in self.table.keys() {
            let known = self.known.join(", ");
            mistakes.note(&format!("{}.{name}", self.path), format!("is not known; known are {known}"));
        }
    }
}

fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("{other} given; allowed is a text")),
    }
}

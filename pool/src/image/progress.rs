//! Where long work says what it is doing.

/// Takes the progress of a bake. Called from async tasks, so it must not block for long.
pub trait Progress: Send + Sync {
    /// `step` (a word from a closed set) has come to `message`, a short line for a person.
    fn report(&self, step: &'static str, message: &str);
}

/// Says nothing.
impl Progress for () {
    fn report(&self, _step: &'static str, _message: &str) {}
}

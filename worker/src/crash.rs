//! Crash points: places where a test makes a worker die between two steps.

/// Ends the surrounding function as if the process had died there. Without the feature `failpoints` it is nothing.
macro_rules! crash_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| $crate::handle::Handled::Crashed);
    };
}
pub(crate) use crash_point;

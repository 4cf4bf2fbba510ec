//! What a keeper is told to run, as one message: written by the agent, read where nothing may be allocated. Pure.

use std::ffi::{CStr, CString, c_char};

/// Longest message; what does not fit gets a jail of its own.
const ORDER_MAX_BYTES: usize = 96 * 1024;
/// Words of one kind, at most.
const WORDS_MAX: usize = 8 * 1024;
/// Numbers before the words.
const NUMBERS: usize = 7;
const NUMBER_BYTES: usize = 8;

/// One command, as the agent has it.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) cwd: &'a CStr,
    pub(crate) programs: &'a [CString],
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    pub(crate) settings: Settings,
}

/// Its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) open_files: (u64, u64),
    pub(crate) file_size_bytes: Option<u64>,
    pub(crate) cpu_seconds: Option<u64>,
}

impl Order<'_> {
    /// The message. `None`: too long.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let kinds = [self.programs, self.argv, self.env];
        let Settings { open_files, file_size_bytes, cpu_seconds } = self.settings;
        let optional = |value: Option<u64>| value.unwrap_or(u64::MAX);
        let counts = kinds.map(|words| words.len() as u64);
        let numbers =
            [open_files.0, open_files.1, optional(file_size_bytes), optional(cpu_seconds)].into_iter();
        let mut message: Vec<u8> = counts.into_iter().chain(numbers).flat_map(u64::to_le_bytes).collect();
        message.extend_from_slice(self.cwd.to_bytes_with_nul());
        for word in kinds.into_iter().flatten() {
            message.extend_from_slice(word.to_bytes_with_nul());
        }
        let fits = message.len() <= ORDER_MAX_BYTES && kinds.iter().all(|words| words.len() < WORDS_MAX);
        fits.then_some(message)
    }
}

/// Where a keeper reads orders. All of its memory is there from the start.
#[derive(Debug)]
pub(super) struct Desk {
    message: Vec<u8>,
    programs: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
}

/// An order that was read. Points into the desk.
#[derive(Debug)]
pub(super) struct Read<'a> {
    pub(super) cwd: &'a CStr,
    pub(super) programs: &'a [*const c_char],
    /// Ends with a null pointer, as does `env`.
    pub(super) argv: &'a [*const c_char],
    pub(super) env: &'a [*const c_char],
    pub(super) settings: Settings,
}

impl Desk {
    pub(super) fn new() -> Self {
        let words = || Vec::with_capacity(WORDS_MAX);
        Self { message: vec![0; ORDER_MAX_BYTES], programs: words(), argv: words(), env: words() }
    }

    /// Where the next message goes.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.message
    }

    /// Reads a message of this length. Allocates nothing. `None`: it is not one of ours.
    pub(super) fn read(&mut self, length: usize) -> Option<Read<'_>> {
        let Self { message, programs, argv, env } = self;
        let (numbers, mut words) = message.get(..length)?.split_at_checked(NUMBERS * NUMBER_BYTES)?;
        let number = |at: usize| {
            let bytes = numbers.get(at * NUMBER_BYTES..)?.first_chunk::<NUMBER_BYTES>()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let cwd = CStr::from_bytes_until_nul(words).ok()?;
        words = words.get(cwd.count_bytes() + 1..)?;
        for (at, pointers) in [&mut *programs, &mut *argv, &mut *env].into_iter().enumerate() {
            pointers.clear();
            for _ in 0..number(at)? {
                let word = CStr::from_bytes_until_nul(words).ok()?;
                words = words.get(word.count_bytes() + 1..)?;
                // Room for the null pointer stays.
                if pointers.len() + 1 >= WORDS_MAX {
                    return None;
                }
                pointers.push(word.as_ptr());
            }
        }
        argv.push(std::ptr::null());
        env.push(std::ptr::null());
        let optional = |at| number(at).map(|value| (value != u64::MAX).then_some(value));
        let settings = Settings {
            open_files: (number(3)?, number(4)?),
            file_size_bytes: optional(5)?,
            cpu_seconds: optional(6)?,
        };
        Some(Read { cwd, programs, argv, env, settings })
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "a test reads what a keeper would give to execve")]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<CString> {
        words.iter().map(|word| CString::new(*word).unwrap()).collect()
    }

    #[test]
    fn an_order_is_read_as_it_was_written_and_twice_the_same_desk_serves() {
        let settings = Settings { open_files: (5, 6), file_size_bytes: None, cpu_seconds: Some(3) };
        let (programs, argv, env) = (words(&["/bin/a", "/a"]), words(&["a", "", "c d"]), words(&["K=v"]));
        let order = Order { cwd: c"sub", programs: &programs, argv: &argv, env: &env, settings };
        let message = order.encode().unwrap();
        let mut desk = Desk::new();
        for _ in 0..2 {
            desk.space()[..message.len()].copy_from_slice(&message);
            let read = desk.read(message.len()).unwrap();
            // SAFETY: they point into the desk, which is alive.
            let text = |pointer: &*const c_char| unsafe { CStr::from_ptr(*pointer) }.to_owned();
            assert_eq!((read.cwd, read.settings), (c"sub", settings));
            assert_eq!(read.programs.iter().map(text).collect::<Vec<_>>(), programs);
            assert_eq!(read.argv[..3].iter().map(text).collect::<Vec<_>>(), argv);
            assert!(read.argv[3].is_null() && read.env[1].is_null());
        }
        for length in 0..message.len() {
            assert!(desk.read(length).is_none(), "{length}");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let long = words(&["x".repeat(ORDER_MAX_BYTES).as_str()]);
        let many = vec![CString::default(); WORDS_MAX];
        for argv in [long, many] {
            let settings = Settings::default();
            let order = Order { cwd: c".", programs: &[], argv: &argv, env: &[], settings };
            assert!(order.encode().is_none());
        }
    }
}

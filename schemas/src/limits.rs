//! Every bound that two sides must agree on, its unit in its name.

/// Largest payload of one frame. A control message waits at most for one data frame of this size.
pub const FRAME_MAX_BYTES: usize = 64 * 1024;
/// Largest data payload that our own senders use; smaller than a frame may be, so that control overtakes sooner.
pub const DATA_CHUNK_BYTES: usize = 32 * 1024;
/// Longest stdin that comes with the request for a command.
pub const INLINE_STDIN_MAX_BYTES: usize = 8 * 1024;
/// How much of each stream of output may come with the end of a command.
pub const INLINE_OUTPUT_REST_BYTES: usize = 8 * 1024;
/// What one frame costs beyond its payload, so that a flood of tiny frames is bounded like a flood of bytes.
pub const FRAME_COST_UNITS: u32 = 16;
/// Credit that each direction of a new stream starts with.
pub const WINDOW_UNITS: u32 = 512 * 1024;
/// Streams that may be open at once on one connection.
pub const STREAMS_MAX: usize = 64;

/// Longest path of a file in the working tree, in bytes.
pub const PATH_MAX_BYTES: usize = 1024;
/// Longest component of such a path, in bytes (what ext4 takes).
pub const PATH_COMPONENT_MAX_BYTES: usize = 255;
/// `argv` and `env` of one command together, in bytes, so that a request fits one control frame.
pub const COMMAND_MAX_BYTES: usize = 48 * 1024;

/// Ids, tenants and runtimes: `[A-Za-z0-9_-]`, this many at most.
pub const NAME_MAX_BYTES: usize = 64;
/// A whole job request as JSON.
pub const REQUEST_MAX_BYTES: usize = 16 * 1024 * 1024;
/// One inline file after decoding.
pub const INLINE_FILE_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Entries of what one job may reach.
pub const DESTINATIONS_MAX: usize = 64;
/// Files of one job.
pub const FILES_MAX: usize = 1024;
/// `metadata` of one job as JSON, since it is stored, logged and echoed.
pub const METADATA_MAX_BYTES: usize = 16 * 1024;
/// Stages of one job.
pub const STAGES_MAX: usize = 16;
/// Cases of one job, those of all its stages together.
pub const CASES_MAX: usize = 1000;
/// How much of one stream of one case is kept in a result, its start and its end together, when cases are few.
pub const CASE_CAPTURE_MAX_BYTES: usize = 16 * 1024;
/// How much of one stream is kept of all cases of a job together; each has an equal share.
pub const CASE_CAPTURES_TOTAL_BYTES: usize = 1024 * 1024;
/// Output patterns of one job.
pub const OUTPUT_GLOBS_MAX: usize = 64;
/// Output files of one job.
pub const OUTPUT_FILES_MAX: usize = 256;
/// One output file that is returned inline.
pub const INLINE_OUTPUT_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// All output files of one job that are returned inline.
pub const INLINE_OUTPUTS_TOTAL_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// How much of the start of a stream is kept in a result.
pub const CAPTURE_HEAD_BYTES: usize = 64 * 1024;
/// How much of the end of a stream is kept in a result when it was longer than head and tail together.
pub const CAPTURE_TAIL_BYTES: usize = 64 * 1024;
/// The least that a message with a result may be bounded to: any result can be reduced to it.
pub const RESULT_LEAST_BYTES: usize = 4 * 1024 * 1024;
/// A whole result as JSON that is kept in a store, at most.
pub const RESULT_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// The largest piece of output in a live event.
pub const LIVE_CHUNK_BYTES: usize = 32 * 1024;
/// What a worker holds of one job's live output for whoever watches it; more is dropped and marked.
pub const LIVE_HOST_BACKLOG_BYTES: usize = 1024 * 1024;
/// What an agent holds of live output for its host; more is dropped and marked.
pub const LIVE_GUEST_BACKLOG_BYTES: usize = 256 * 1024;

/// Longest name of an object: scheme, store and key, in bytes.
pub const REFERENCE_MAX_BYTES: usize = 2048;
/// Longest name of a bucket, a container or a folder of objects, in bytes.
pub const REFERENCE_STORE_MAX_BYTES: usize = 255;
/// Entries of one tar archive.
pub const TAR_ENTRIES_MAX: usize = 16 * 1024;
/// Names of all entries of one tar archive together, in bytes: a list of them is held.
pub const TAR_NAMES_MAX_BYTES: usize = 2 * 1024 * 1024;

/// Memory of a VM that the job never gets: the agent and the kernel live there.
pub const AGENT_RESERVE_MIB: u64 = 64;

/// Fewest open files that a process may be limited to: a dynamic linker and a language's runtime need some.
pub const OPEN_FILES_MIN: u64 = 16;
/// Open files of a process that was not limited, as far as it does not raise that itself.
pub const OPEN_FILES_DEFAULT: u64 = 1024;
/// Most open files of a process.
pub const OPEN_FILES_MAX: u64 = 16_384;

/// First vsock CID that a VM may have: 0 and 1 are special, 2 is the host (vsock(7)).
pub const CID_FIRST: u32 = 3;
/// Entropy that a wake carries, at least.
pub const WAKE_ENTROPY_MIN_BYTES: usize = 32;
/// The nonce that opens a live connection.
pub const WAKE_NONCE_BYTES: usize = 32;

const _: () = assert!(
    COMMAND_MAX_BYTES + 2 * PATH_MAX_BYTES + INLINE_STDIN_MAX_BYTES < FRAME_MAX_BYTES,
    "an exec request with its stdin fits one frame"
);
const _: () =
    assert!(2 * INLINE_OUTPUT_REST_BYTES < FRAME_MAX_BYTES / 2, "the end of a command fits one frame");
const _: () = assert!(DATA_CHUNK_BYTES <= FRAME_MAX_BYTES && LIVE_CHUNK_BYTES <= FRAME_MAX_BYTES);
const _: () = assert!(DATA_CHUNK_BYTES <= LIVE_CHUNK_BYTES, "what an agent reads at once is one event");
const _: () =
    assert!(COMMAND_MAX_BYTES + 2 * PATH_MAX_BYTES < FRAME_MAX_BYTES, "an exec request fits one frame");
const _: () = assert!(
    WINDOW_UNITS as usize >= 2 * (FRAME_MAX_BYTES + FRAME_COST_UNITS as usize),
    "half a window admits any frame"
);
const _: () = assert!(CASE_CAPTURES_TOTAL_BYTES / CASES_MAX >= 1024, "enough to see what a case printed");
const _: () = assert!(INLINE_OUTPUT_MAX_BYTES <= INLINE_OUTPUTS_TOTAL_MAX_BYTES);
const _: () = assert!(INLINE_FILE_MAX_BYTES < REQUEST_MAX_BYTES);
const _: () = assert!(OPEN_FILES_MIN < OPEN_FILES_DEFAULT && OPEN_FILES_DEFAULT < OPEN_FILES_MAX);

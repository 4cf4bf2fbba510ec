//! Control messages. Tags are never reused; fields are only added. Times, sizes and counts carry their unit.
//!
//! Stream 0 carries [`Hello`] and [`HelloReply`]. Every other stream opens with a [`Request`] from the host.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

/// Host to agent, first frame on stream 0.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hello {
    /// Lowest protocol version that the host speaks.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Highest protocol version that the host speaks.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
}

/// Agent to host, first frame on stream 0.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HelloReply {
    /// The version for this session, or 0 when there is none in common.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Lowest protocol version that the agent speaks.
    #[prost(uint32, tag = "2")]
    pub version_min: u32,
    /// Highest protocol version that the agent speaks.
    #[prost(uint32, tag = "3")]
    pub version_max: u32,
    /// The agent's own version, for people.
    #[prost(string, tag = "4")]
    pub agent: String,
    /// cgroup v2 controllers that this agent can limit a job with. A limit without its controller is refused.
    #[prost(string, repeated, tag = "5")]
    pub controllers: Vec<String>,
    /// Whether a wake was confirmed since the agent started.
    #[prost(bool, tag = "6")]
    pub awake: bool,
    /// Whether this agent can hold a job to a quota of disk and files.
    #[prost(bool, tag = "7")]
    pub disk_quota: bool,
    /// Whether this agent knows `open_files` and `file_size_bytes` of a command's limits. One that does not would
    /// ignore them.
    #[prost(bool, tag = "20")]
    pub file_limits: bool,
    /// Whether this agent can let a command use IP.
    #[prost(bool, tag = "21")]
    pub ip: bool,
    /// Whether this agent takes [`PutDirectory`].
    #[prost(bool, tag = "30")]
    pub put_directories: bool,
    /// Whether this agent can run a command in a fresh copy of the working tree.
    #[prost(bool, tag = "35")]
    pub fresh_copy: bool,
    /// Whether this agent can make a live connection. An older one cannot.
    #[prost(bool, tag = "40")]
    pub live: bool,
    /// Whether this agent knows [`Exec::inline`].
    #[prost(bool, tag = "50")]
    pub inline: bool,
    /// Whether this agent can set up a network card in its wake. An older one would leave it down.
    #[prost(bool, tag = "60")]
    pub network: bool,
}

/// Host to agent: the first message of a stream, which says what the stream is for.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Request {
    /// Absent when the agent is older than the request.
    #[prost(oneof = "request::Body", tags = "1, 2, 3, 4, 5, 6, 7, 40")]
    pub body: Option<request::Body>,
}

/// What a [`Request`] asks.
pub mod request {
    /// One of these.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Body {
        /// Answered by one [`super::Pong`].
        #[prost(message, tag = "1")]
        Ping(super::Ping),
        /// Answered by one [`super::Woken`].
        #[prost(message, tag = "2")]
        Wake(super::Wake),
        /// Followed by entries ([`super::PutEntry`], data, [`super::PutEntryEnd`]) and an end; answered by one [`super::PutDone`].
        #[prost(message, tag = "3")]
        Put(super::Put),
        /// Answered by entries ([`super::GetEntry`], data, [`super::GetEntryEnd`]) and one [`super::GetDone`].
        #[prost(message, tag = "4")]
        Get(super::Get),
        /// Answered by [`super::Started`], then, when the whole tree is gone, [`super::Exited`].
        #[prost(message, tag = "5")]
        Exec(super::Exec),
        /// Answered by one [`super::Quiesced`]: caches written, logs quiet, ready for a snapshot.
        #[prost(message, tag = "6")]
        Quiesce(super::Quiesce),
        /// Answered by one [`super::ShuttingDown`], then the VM powers off.
        #[prost(message, tag = "7")]
        Shutdown(super::Shutdown),
        /// Answered by one [`super::LiveOpened`], once the live connection is made.
        #[prost(message, tag = "40")]
        Live(super::Live),
    }
}

/// Agent to host, on the stream of the request.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Reply {
    /// Absent when the host is older than the reply.
    #[prost(oneof = "reply::Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 40, 50")]
    pub body: Option<reply::Body>,
}

/// What a [`Reply`] answers.
pub mod reply {
    /// One of these.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Body {
        /// The request failed; the stream ends here.
        #[prost(message, tag = "1")]
        Fault(super::Fault),
        /// Answers a ping.
        #[prost(message, tag = "2")]
        Pong(super::Pong),
        /// Answers a wake.
        #[prost(message, tag = "3")]
        Woken(super::Woken),
        /// Answers a put.
        #[prost(message, tag = "4")]
        PutDone(super::PutDone),
        /// Opens a file of a get.
        #[prost(message, tag = "5")]
        GetEntry(super::GetEntry),
        /// Closes a file of a get.
        #[prost(message, tag = "6")]
        GetEntryEnd(super::GetEntryEnd),
        /// Closes a get.
        #[prost(message, tag = "7")]
        GetDone(super::GetDone),
        /// The command was executed by the kernel.
        #[prost(message, tag = "8")]
        Started(super::Started),
        /// The command and everything it left behind is gone.
        #[prost(message, tag = "9")]
        Exited(super::Exited),
        /// Answers a quiesce.
        #[prost(message, tag = "10")]
        Quiesced(super::Quiesced),
        /// Answers a shutdown.
        #[prost(message, tag = "11")]
        ShuttingDown(super::ShuttingDown),
        /// Answers a live.
        #[prost(message, tag = "40")]
        LiveOpened(super::LiveOpened),
        /// Output of a command that was asked for with [`super::Exec::inline`].
        #[prost(message, tag = "50")]
        Output(super::Output),
    }
}

/// Why a request failed.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Fault {
    /// What kind of failure.
    #[prost(enumeration = "FaultKind", tag = "1")]
    pub kind: i32,
    /// For people; names the path or field. At most 1 KiB.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Kinds of [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum FaultKind {
    /// A fault of the agent's own.
    Internal = 0,
    /// The request makes no sense to this agent (unknown body, a field out of range, a limit it cannot hold).
    Unsupported = 1,
    /// A path that leaves the working tree, or is not a plain relative path.
    Path = 2,
    /// A digest or size that does not match what arrived.
    Checksum = 3,
    /// The command could not be executed: not found, not executable, a bad interpreter.
    Exec = 4,
    /// No room on the scratch disk.
    NoSpace = 5,
    /// The job asked for something before the wake.
    NotAwake = 6,
}

/// Asks whether the agent lives.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Ping {}

/// The agent lives.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Pong {
    /// Nanoseconds of the guest's monotonic clock.
    #[prost(uint64, tag = "1")]
    pub monotonic_ns: u64,
}

/// The first message after a restore: makes a clone its own machine.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Wake {
    /// Wall clock of the host, nanoseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub now_unix_ns: u64,
    /// At least [`crate::limits::WAKE_ENTROPY_MIN_BYTES`] from the host's own generator.
    #[prost(bytes = "vec", tag = "2")]
    pub entropy: Vec<u8>,
    /// Host name to set; also the source of machine-id. `[a-z0-9-]{1,63}`.
    #[prost(string, tag = "3")]
    pub hostname: String,
    /// Who this VM is.
    #[prost(message, optional, tag = "4")]
    pub identity: Option<Identity>,
    /// What opens a live connection to the host's port.
    #[prost(bytes = "vec", tag = "5")]
    pub nonce: Vec<u8>,
    /// What its network card is set to. Absent: it has none, or it stays down. Only where the hello says `network`.
    #[prost(message, optional, tag = "20")]
    pub network: Option<Network>,
}

/// How a VM is part of a network. IPv4 addresses are numbers, the first byte highest.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Network {
    /// The card's own address.
    #[prost(fixed32, tag = "1")]
    pub address: u32,
    /// Bits of it that are the network's: 1 to 30.
    #[prost(uint32, tag = "2")]
    pub prefix_bits: u32,
    /// The router for everything else.
    #[prost(fixed32, tag = "3")]
    pub gateway: u32,
    /// Who resolves names.
    #[prost(fixed32, tag = "4")]
    pub resolver: u32,
}

/// What a VM may call itself.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Identity {
    /// Its leased vsock CID.
    #[prost(uint32, tag = "1")]
    pub cid: u32,
    /// The host port that it may dial.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// Fencing token of the lease. An agent refuses a wake with a lower token than one it has seen.
    #[prost(uint64, tag = "3")]
    pub token: u64,
}

/// What a wake did, so that the host can check it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Woken {
    /// Entropy given to the kernel's pool and credited.
    #[prost(uint32, tag = "1")]
    pub entropy_bytes: u32,
    /// Whether the kernel's generator was reseeded after that.
    #[prost(bool, tag = "2")]
    pub reseeded: bool,
    /// How far the wall clock was stepped, in nanoseconds.
    #[prost(int64, tag = "3")]
    pub clock_step_ns: i64,
    /// The host name as the kernel gives it back.
    #[prost(string, tag = "4")]
    pub hostname: String,
    /// The identity that the agent now holds.
    #[prost(message, optional, tag = "5")]
    pub identity: Option<Identity>,
    /// Size of the mounted scratch disk.
    #[prost(uint64, tag = "6")]
    pub scratch_bytes: u64,
    /// The machine-id that processes in the guest now read, 32 hex digits.
    #[prost(string, tag = "7")]
    pub machine_id: String,
    /// What the network card is now set to.
    #[prost(message, optional, tag = "20")]
    pub network: Option<Network>,
}

/// Asks for a snapshot-ready state.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Quiesce {}

/// The guest is ready for a snapshot once this has been read.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Quiesced {}

/// Asks the VM to power off.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Shutdown {}

/// The VM powers off.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ShuttingDown {}

/// Asks the agent to dial the port of its identity, and to open that connection with the nonce of its wake: the live
/// connection, for copies of output. One that was made before is closed.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Live {}

/// The live connection is made, and the nonce is on its way.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LiveOpened {}

/// Opens an upload into the working tree.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Put {}

/// One file of an upload; its bytes follow as data.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutEntry {
    /// Relative to the working tree; parents are made.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits (0 to 0o777).
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// How many bytes follow.
    #[prost(uint64, tag = "3")]
    pub size_bytes: u64,
}

/// The bytes of the file have all been sent.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutEntryEnd {
    /// Their SHA-256.
    #[prost(bytes = "vec", tag = "1")]
    pub sha256: Vec<u8>,
}

/// A directory of an upload, made if it is not there; files make their own.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutDirectory {
    /// Relative to the working tree; parents are made.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// Host to agent on the stream of a put, after the request.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutItem {
    /// Absent when the agent is older than the item.
    #[prost(oneof = "put_item::Body", tags = "1, 2, 30")]
    pub body: Option<put_item::Body>,
}

/// What a [`PutItem`] is.
pub mod put_item {
    /// One of these.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Body {
        /// Opens a file.
        #[prost(message, tag = "1")]
        Entry(super::PutEntry),
        /// Closes it.
        #[prost(message, tag = "2")]
        End(super::PutEntryEnd),
        /// Makes a directory, between files. Only for agents whose hello says [`super::HelloReply::put_directories`].
        #[prost(message, tag = "30")]
        Directory(super::PutDirectory),
    }
}

/// Every file of the upload is in place, synced to the guest's page cache.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutDone {
    /// Files written.
    #[prost(uint32, tag = "1")]
    pub files: u32,
    /// Bytes written.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

/// Asks for the regular files of the working tree that match.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Get {
    /// Patterns relative to the working tree: `*`, `?`, `[…]` within one component, `**` across them.
    #[prost(string, repeated, tag = "1")]
    pub globs: Vec<String>,
    /// Files to send at most.
    #[prost(uint32, tag = "2")]
    pub files_max: u32,
    /// Files larger than this are named in the answer and not sent.
    #[prost(uint64, tag = "3")]
    pub file_max_bytes: u64,
    /// No file is sent that would make the sum of sizes larger than this.
    #[prost(uint64, tag = "4")]
    pub total_max_bytes: u64,
}

/// One file of a download; its bytes follow as data.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GetEntry {
    /// Relative to the working tree. The host checks it like any other byte from a guest.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// How many bytes follow.
    #[prost(uint64, tag = "3")]
    pub size_bytes: u64,
}

/// The bytes of the file have all been sent, or it changed while it was read.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GetEntryEnd {
    /// Their SHA-256. Empty when the file changed while it was read: what was sent of it, possibly less than
    /// announced, is void, and the answer lists it as unreadable.
    #[prost(bytes = "vec", tag = "1")]
    pub sha256: Vec<u8>,
}

/// The download is complete.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GetDone {
    /// Patterns that matched nothing.
    #[prost(string, repeated, tag = "1")]
    pub missing: Vec<String>,
    /// Matches that were not sent, with the reason.
    #[prost(message, repeated, tag = "2")]
    pub skipped: Vec<Skipped>,
    /// Matches beyond those that are neither sent nor named: an answer fits one frame.
    #[prost(uint64, tag = "3")]
    pub skipped_more: u64,
}

/// A match that was not sent.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Skipped {
    /// Its path, lossily decoded where it is not UTF-8.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Why.
    #[prost(enumeration = "SkipReason", tag = "2")]
    pub reason: i32,
    /// Its size where it has one.
    #[prost(uint64, tag = "3")]
    pub size_bytes: u64,
}

/// Why a match was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SkipReason {
    /// A reason that this host does not know.
    Unknown = 0,
    /// Neither a regular file nor a directory; links are never followed.
    NotRegular = 1,
    /// Larger than one file may be.
    TooLarge = 2,
    /// Beyond the number or the sum of sizes.
    TooMany = 3,
    /// Its name is not UTF-8.
    Name = 4,
    /// It changed or vanished while it was read.
    Unreadable = 5,
}

/// Runs one command in a cgroup of its own.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Exec {
    /// Command and arguments; the first is looked up in the `PATH` of `env`.
    #[prost(string, repeated, tag = "1")]
    pub argv: Vec<String>,
    /// The whole environment.
    #[prost(btree_map = "string, string", tag = "2")]
    pub env: BTreeMap<String, String>,
    /// Working directory relative to the working tree; empty means the tree itself.
    #[prost(string, tag = "3")]
    pub cwd: String,
    /// Stream that carries stdin from the host; 0 means an empty stdin.
    #[prost(uint32, tag = "4")]
    pub stdin: u32,
    /// Stream that carries stdout to the host.
    #[prost(uint32, tag = "5")]
    pub stdout: u32,
    /// Stream that carries stderr to the host.
    #[prost(uint32, tag = "6")]
    pub stderr: u32,
    /// What the command and its children may use.
    #[prost(message, optional, tag = "7")]
    pub limits: Option<ExecLimits>,
    /// Who runs it.
    #[prost(enumeration = "User", tag = "8")]
    pub user: i32,
    /// Whether it may open IP sockets, in a network namespace whose loopback is up.
    #[prost(bool, tag = "20")]
    pub ip: bool,
    /// Whether it gets a copy of the working tree and `/tmp` of its own, which is gone with it. For the job user only,
    /// and only where the hello says `fresh_copy`: an agent without that would ignore it.
    #[prost(bool, tag = "30")]
    pub fresh: bool,
    /// Files that only it sees, read-only in [`crate::guest::GIVEN_DIR`]. Only together with `fresh`.
    #[prost(message, repeated, tag = "31")]
    pub given: Vec<Given>,
    /// What this command is called on the live connection, from 1; its output is copied there. 0: it is not.
    #[prost(uint32, tag = "40")]
    pub live: u32,
    /// Whether everything comes on the stream of the request: no [`Started`], output as [`Output`], and what is left of it
    /// in [`Exited`]. `stdout` and `stderr` are 0 then. Only together with `fresh`. Such commands take turns: one may be
    /// asked for while another runs, and is prepared meanwhile. Only for agents whose hello says
    /// [`HelloReply::inline`].
    #[prost(bool, tag = "50")]
    pub inline: bool,
    /// Its stdin when `stdin` is 0; at most [`crate::limits::INLINE_STDIN_MAX_BYTES`]. Only together with `inline`.
    #[prost(bytes = "bytes", tag = "51")]
    pub stdin_bytes: Bytes,
}

/// A file for one command.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Given {
    /// Its name: 1 to 64 of A-Z, a-z, 0-9, `_` and `-`.
    #[prost(string, tag = "20")]
    pub name: String,
    /// Stream that carries its content from the host.
    #[prost(uint32, tag = "21")]
    pub stream: u32,
}

/// Who runs a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum User {
    /// The unprivileged user that jobs run as.
    Job = 0,
    /// Root in the guest: for warming up before the bake only; refused after the wake.
    Root = 1,
}

/// Limits of one command. An absent one does not limit; 0 is refused.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ExecLimits {
    /// Wall time in milliseconds.
    #[prost(uint64, optional, tag = "1")]
    pub wall_ms: Option<u64>,
    /// User and system time of the whole tree in milliseconds.
    #[prost(uint64, optional, tag = "2")]
    pub cpu_ms: Option<u64>,
    /// Memory of the whole tree in bytes, page cache included, no swap. Needs the `memory` controller.
    #[prost(uint64, optional, tag = "3")]
    pub memory_bytes: Option<u64>,
    /// Processes and threads alive at once. Needs the `pids` controller.
    #[prost(uint64, optional, tag = "4")]
    pub processes: Option<u64>,
    /// Bytes of stdout, and of stderr, each.
    #[prost(uint64, optional, tag = "5")]
    pub output_bytes: Option<u64>,
    /// Bytes on the scratch disk, uploads included. Needs a disk quota.
    #[prost(uint64, optional, tag = "6")]
    pub disk_bytes: Option<u64>,
    /// Files and directories on the scratch disk, uploads included. Needs a disk quota.
    #[prost(uint64, optional, tag = "7")]
    pub files: Option<u64>,
    /// Open files of each process; absent means 1024, which it may raise itself. See [`HelloReply::file_limits`].
    #[prost(uint64, optional, tag = "8")]
    pub open_files: Option<u64>,
    /// Size of the largest file that it may write, in bytes. See [`HelloReply::file_limits`].
    #[prost(uint64, optional, tag = "9")]
    pub file_size_bytes: Option<u64>,
}

/// Host to agent on the stream of an exec, after the request.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Kill {}

/// The command runs.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Started {
    /// Its process id in the guest.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
}

/// The command and its whole tree are gone, and every byte of output has been sent. With `killed` and neither exit code
/// nor signal: it was killed before its turn came.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Exited {
    /// Exit code of the command, when it exited.
    #[prost(int32, optional, tag = "1")]
    pub exit_code: Option<i32>,
    /// Signal that ended the command, when one did.
    #[prost(int32, optional, tag = "2")]
    pub signal: Option<i32>,
    /// The limit that ended it, the first if several did.
    #[prost(enumeration = "LimitHit", tag = "3")]
    pub limit_hit: i32,
    /// Whether the host's kill ended it.
    #[prost(bool, tag = "4")]
    pub killed: bool,
    /// What it used.
    #[prost(message, optional, tag = "5")]
    pub usage: Option<Usage>,
    /// Bytes that the tree wrote to stdout (sent or, beyond the limit, dropped).
    #[prost(uint64, tag = "6")]
    pub stdout_bytes: u64,
    /// Bytes that the tree wrote to stderr (sent or, beyond the limit, dropped).
    #[prost(uint64, tag = "7")]
    pub stderr_bytes: u64,
    /// The last of its stdout, when it was asked for with [`Exec::inline`].
    #[prost(bytes = "bytes", tag = "50")]
    pub stdout_rest: Bytes,
    /// The last of its stderr, when it was asked for with [`Exec::inline`].
    #[prost(bytes = "bytes", tag = "51")]
    pub stderr_rest: Bytes,
}

/// Output of a command, in the order in which it was written to each of them.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Output {
    /// To stderr; to stdout otherwise.
    #[prost(bool, tag = "50")]
    pub stderr: bool,
    /// At most [`crate::limits::DATA_CHUNK_BYTES`].
    #[prost(bytes = "bytes", tag = "51")]
    pub data: Bytes,
}

/// The limit that ended a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum LimitHit {
    /// None did.
    None = 0,
    /// `wall_ms`.
    Wall = 1,
    /// `cpu_ms`.
    Cpu = 2,
    /// `memory_bytes`: the kernel's OOM killer acted in the command's cgroup.
    Memory = 3,
    /// `processes`: a fork was refused.
    Processes = 4,
    /// `output_bytes`.
    Output = 5,
    /// `disk_bytes`.
    Disk = 6,
    /// `files`.
    Files = 7,
    /// `file_size_bytes`: SIGXFSZ ended it. A write that only fails is the command's to deal with.
    FileSize = 8,
}

/// What a command used, as the kernel counted it for the cgroup.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Usage {
    /// Wall time from exec to the end of the command itself, in microseconds.
    #[prost(uint64, tag = "1")]
    pub wall_us: u64,
    /// User time of the tree in microseconds.
    #[prost(uint64, tag = "2")]
    pub user_us: u64,
    /// System time of the tree in microseconds.
    #[prost(uint64, tag = "3")]
    pub system_us: u64,
    /// Peak memory of the tree in bytes; absent without the `memory` controller.
    #[prost(uint64, optional, tag = "4")]
    pub memory_peak_bytes: Option<u64>,
    /// Peak number of processes and threads; absent without the `pids` controller.
    #[prost(uint64, optional, tag = "5")]
    pub processes_peak: Option<u64>,
    /// Bytes on the scratch disk at the end; absent without a disk quota.
    #[prost(uint64, optional, tag = "6")]
    pub disk_bytes: Option<u64>,
}

//! What a worker is told by its file, and by the environment instead of the file. Everything that is wrong is said at
//! once.

mod limits;
mod network;
mod objects;
mod pool;
mod prewarm;
mod read;
mod redis;
mod reload;
mod telemetry;
mod tenants;
mod tls;
mod vms;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hearth_pool::{net::runtime_of, rates::Rates};
use hearth_schemas::{job::is_name, limits::RESULT_LEAST_BYTES};
use toml::{Table, Value};

pub use self::{
    network::NetworkSettings, pool::PoolSettings, prewarm::Prewarm, read::Overrides, redis::RedisSettings,
    reload::Changes, telemetry::TelemetrySettings,
};
use self::{
    read::{Mistakes, Section},
    redis::redis,
    tls::certificates,
};
use crate::{
    admit::{Bound, LimitTerms, Terms},
    amqp::{
        link::Endpoint,
        names::{Names, PREFIX, SHARDS},
        source::{PREFETCH, WEIGHTS},
        spool::SPOOL_MAX_BYTES,
    },
    execute::TRANSFER_LEAST_BYTES,
    ledger::Quotas,
    objects::ObjectSettings,
};

/// What a job's message is held for beyond its stages' wall time: transfers, a slow agent, a claim.
const HELD_BEYOND_WALL: Duration = Duration::from_secs(3 * 60);

/// What a broker can be told to carry in one message, in MiB: any result can be reduced to the least.
const MESSAGE_MIB: (u64, u64) = (RESULT_LEAST_BYTES as u64 >> 20, 512);
/// RabbitMQ 4 carries 16 MiB unless it is told otherwise.
const MESSAGE_DEFAULT_MIB: u64 = 15;

/// A worker's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The broker.
    pub broker: BrokerSettings,
    /// Where the ledger and the leases are; without one this worker must be the only one.
    pub redis: Option<RedisSettings>,
    /// Slots by runtime; without any, one of each baked runtime.
    pub slots: BTreeMap<String, u32>,
    /// How many VMs are warm, and what they may take.
    pub pool: PoolSettings,
    /// Tenants by the broker's user.
    pub tenants: BTreeMap<String, String>,
    /// Users whose requests may name any tenant.
    pub trusted: Vec<String>,
    /// Whether requests may name any tenant whose messages name no user.
    pub trusts_unnamed: bool,
    /// How much of each tenant may run, over all workers.
    pub quotas: Quotas,
    /// Wall time of all stages of a job together, at most.
    pub job_wall_max: Duration,
    /// Defaults and bounds of what jobs may use.
    pub limits: LimitTerms,
    /// How long jobs may take all in all.
    pub deadline_ms: Bound,
    /// Where the pages for operators are.
    pub admin: Option<SocketAddr>,
    /// How long a drain may take.
    pub grace: Duration,
    /// Threads that tasks run on; by [`crate::threads::threads`] if not said.
    pub threads: Option<usize>,
    /// Where results wait while the broker or the ledger is away; see [`Settings::with_data_dir`].
    pub spool: Option<PathBuf>,
    /// How many bytes of them.
    pub spool_max_bytes: u64,
    /// Stores of objects, and who may read what.
    pub objects: ObjectSettings,
    /// Networks of VMs that have one.
    pub network: NetworkSettings,
    /// How fast the devices of each VM may be.
    pub rates: Rates,
    /// What the worker tells about itself.
    pub telemetry: TelemetrySettings,
}

/// See [`Settings::broker`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSettings {
    /// Where it is.
    pub endpoint: Endpoint,
    /// What things are called there.
    pub names: Names,
    /// Run queues of a runtime and lane; the same for all workers.
    pub shards: u16,
    /// Messages of the intake that may wait for a decision.
    pub prefetch: u16,
    /// How often each lane goes first.
    pub weights: [u32; 3],
    /// Whether the worker declares what is absent.
    pub declare: bool,
    /// The broker's consumer timeout.
    pub consumer_timeout: Duration,
    /// Where results may be sent.
    pub reply_to: Vec<String>,
    /// What the broker carries in one message, in bytes.
    pub message_max_bytes: usize,
}

/// Everything that is wrong with a worker's settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadSettings(pub Vec<String>);

impl Settings {
    /// Reads a file's text, each field unless the environment gives it: `broker.url` is `HEARTH_WORKER_BROKER_URL`.
    ///
    /// # Errors
    /// All mistakes.
    pub fn parse(text: &str, overrides: Overrides<'_>) -> Result<Self, BadSettings> {
        let mut whole: Table =
            text.parse().map_err(|error| BadSettings(vec![format!("not TOML: {error}")]))?;
        let mut mistakes = Mistakes::default();
        let settings = Self::read(&mut whole, overrides, &mut mistakes);
        for name in whole.keys() {
            mistakes.note(
                name,
                "is not known; known are broker, redis, slots, pool, tenants, jobs, objects, network, vms, worker, telemetry",
            );
        }
        match (settings, mistakes.0) {
            (Some(settings), mistakes) if mistakes.is_empty() => Ok(settings),
            (_, mistakes) => Err(BadSettings(mistakes)),
        }
    }

    /// The same with a place below the data directory for what has none of its own.
    #[must_use]
    pub fn with_data_dir(mut self, data_dir: &Path) -> Self {
        self.spool.get_or_insert_with(|| data_dir.join("spool"));
        self
    }

    fn read(whole: &mut Table, overrides: Overrides<'_>, mistakes: &mut Mistakes) -> Option<Self> {
        let slots = slots(whole, mistakes);
        let pool = PoolSettings::read(whole, overrides, &slots, mistakes);
        let broker = broker(Section::take(whole, "broker", overrides, mistakes), mistakes);
        let redis = redis(Section::take(whole, "redis", overrides, mistakes), mistakes);
        let tenants = tenants::read(whole, overrides, mistakes);
        let mut jobs = Section::take(whole, "jobs", overrides, mistakes);
        let terms = Terms::new(BTreeMap::new());
        let day_ms = 24 * 3600 * 1000;
        let wall_ms = jobs.number("wall_max_ms", (1, day_ms), terms.job_wall_max_ms, mistakes);
        let max = jobs.number("deadline_max_ms", (1, 30 * day_ms), terms.deadline_ms.max, mistakes);
        let default =
            jobs.number("deadline_default_ms", (1, max), terms.deadline_ms.default.min(max), mistakes);
        let limits = jobs.field("limits", mistakes, limits::limits).unwrap_or_default();
        jobs.end(mistakes);
        let objects = objects::objects(Section::take(whole, "objects", overrides, mistakes), mistakes);
        let network = network::network(Section::take(whole, "network", overrides, mistakes), mistakes);
        let rates = vms::rates(Section::take(whole, "vms", overrides, mistakes), mistakes);
        let mut worker = Section::take(whole, "worker", overrides, mistakes);
        let admin = worker.field("admin", mistakes, |value| {
            let address = value.as_str().and_then(|text| text.parse().ok());
            address.ok_or_else(|| format!("{value} given; allowed is an address such as \"127.0.0.1:9102\""))
        });
        let grace = Duration::from_secs(worker.number("grace_s", (0, 24 * 3600), 120, mistakes));
        let spool = worker.text("spool", mistakes).map(|path| Path::new(&path).to_owned());
        let spool_max_bytes =
            worker.number("spool_max_mib", (1, 1 << 20), SPOOL_MAX_BYTES >> 20, mistakes) << 20;
        let threads = match worker.number("threads", (0, 1024), 0, mistakes) {
            0 => None,
            threads => usize::try_from(threads).ok(),
        };
        worker.end(mistakes);
        let telemetry =
            telemetry::telemetry(Section::take(whole, "telemetry", overrides, mistakes), mistakes);
        let (broker, job_wall_max) = (broker?, Duration::from_millis(wall_ms));
        let moved = Duration::from_secs(objects.moved_max_bytes() / TRANSFER_LEAST_BYTES);
        let beyond = HELD_BEYOND_WALL + moved;
        if job_wall_max + beyond > broker.consumer_timeout {
            mistakes.note("jobs.wall_max_ms", format!(
                "a job of {job_wall_max:?} would be held longer than broker.consumer_timeout_s, {:?}, allows with \
                 {beyond:?} to spare, {moved:?} of it for objects; lower this, or raise consumer_timeout in rabbitmq.conf and here",
                broker.consumer_timeout
            ));
        }
        Some(Self {
            broker,
            redis,
            slots,
            pool,
            tenants: tenants.users,
            trusted: tenants.trusted,
            trusts_unnamed: tenants.trusts_unnamed,
            quotas: tenants.quotas,
            job_wall_max,
            limits,
            deadline_ms: Bound { default, max },
            admin,
            grace,
            threads,
            spool,
            spool_max_bytes,
            objects,
            network,
            rates,
            telemetry,
        })
    }
}

fn broker(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<BrokerSettings> {
    let url = section.text("url", mistakes);
    let certificates = certificates(&mut section, mistakes);
    let prefix = section.text("prefix", mistakes).unwrap_or_else(|| PREFIX.to_owned());
    let shards = section.number("shards", (1, 256), u64::from(SHARDS), mistakes);
    let prefetch = section.number("prefetch", (1, 1000), u64::from(PREFETCH), mistakes);
    let declare = section.flag("declare", true, mistakes);
    let timeout_s = section.number("consumer_timeout_s", (60, 30 * 24 * 3600), 1800, mistakes);
    let reply_to = section.texts("reply_to", mistakes).unwrap_or_else(|| vec!["*".to_owned()]);
    let message_mib = section.number("message_max_mib", MESSAGE_MIB, MESSAGE_DEFAULT_MIB, mistakes);
    let weights = section.field("lane_weights", mistakes, weights).unwrap_or(WEIGHTS);
    section.end(mistakes);
    let names = Names::new(&prefix).map_err(|error| mistakes.note("broker.prefix", error)).ok();
    let endpoint = |url: &str| Endpoint::new(url)?.with_certificates(certificates);
    let endpoint = match url.as_deref().map(endpoint) {
        Some(Ok(endpoint)) => Some(endpoint),
        Some(Err(error)) => {
            mistakes.note("broker.url", error);
            None
        }
        None => {
            mistakes.note("broker.url", "is missing; it is required");
            None
        }
    };
    Some(BrokerSettings {
        endpoint: endpoint?,
        names: names?,
        shards: u16::try_from(shards).ok()?,
        prefetch: u16::try_from(prefetch).ok()?,
        weights,
        declare,
        consumer_timeout: Duration::from_secs(timeout_s),
        reply_to,
        message_max_bytes: usize::try_from(message_mib << 20).unwrap_or(usize::MAX),
    })
}

fn slots(whole: &mut Table, mistakes: &mut Mistakes) -> BTreeMap<String, u32> {
    by_name(whole, "slots", mistakes, |value| {
        let slots = value.as_integer().and_then(|slots| u32::try_from(slots).ok());
        slots.filter(|slots| (1..=10_000).contains(slots)).ok_or("allowed is a whole number from 1 to 10000")
    })
}

/// A table from names to values.
fn by_name<T>(
    whole: &mut Table,
    path: &str,
    mistakes: &mut Mistakes,
    read: impl Fn(&Value) -> Result<T, &'static str>,
) -> BTreeMap<String, T> {
    let mut found = BTreeMap::new();
    match whole.remove(path) {
        None => {}
        Some(Value::Table(table)) => {
            for (name, value) in table {
                match read(&value) {
                    _ if !is_name(runtime_of(&name).0) => mistakes.note(path, format!("{name:?} is no name")),
                    Ok(read) => {
                        found.insert(name, read);
                    }
                    Err(what) => mistakes.note(&format!("{path}.{name}"), format!("{value} given; {what}")),
                }
            }
        }
        Some(other) => mistakes.note(path, format!("is a {}; allowed is a table", other.type_str())),
    }
    found
}

fn weights(value: &Value) -> Result<[u32; 3], String> {
    let numbers = value.as_array().and_then(|all| {
        let weight = |value: &Value| value.as_integer().and_then(|weight| u32::try_from(weight).ok());
        all.iter().map(weight).collect::<Option<Vec<_>>>()
    });
    let weights = numbers.and_then(|numbers| <[u32; 3]>::try_from(numbers).ok());
    weights
        .filter(|weights| weights.iter().all(|weight| (1..=1000).contains(weight)))
        .ok_or_else(|| format!("{value} given; allowed are three whole numbers from 1 to 1000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn little_is_enough_and_the_environment_goes_first() {
        let settings = Settings::parse("[broker]\nurl = \"amqp://localhost\"\n", &none).unwrap();
        assert_eq!((settings.broker.shards, settings.redis, settings.admin), (16, None, None));
        let environment = |name: &str| match name {
            "HEARTH_WORKER_BROKER_URL" => Some("amqp://other".to_owned()),
            "HEARTH_WORKER_BROKER_SHARDS" => Some("4".to_owned()),
            "HEARTH_WORKER_TENANTS_TRUSTED" => Some("[\"ops\"]".to_owned()),
            "HEARTH_WORKER_WORKER_ADMIN" => Some("127.0.0.1:0".to_owned()),
            _ => None,
        };
        let settings =
            Settings::parse("[broker]\nurl = \"amqp://localhost\"\nshards = 2\n", &environment).unwrap();
        assert_eq!(settings.broker.endpoint, Endpoint::new("amqp://other").unwrap());
        assert_eq!((settings.broker.shards, settings.trusted), (4, vec!["ops".to_owned()]));
        assert!(settings.admin.is_some());
    }

    #[test]
    fn all_mistakes_are_said_at_once() {
        let text = r#"
            color = "red"
            [broker]
            shards = 0
            prefix = "a b"
            lane_weights = [1, 2]
            urll = "amqp://x"
            [slots]
            python = -1
            [jobs]
            wall_max_ms = "long"
            [tenants]
            users = { alice = "a b" }
            [worker]
            admin = "nowhere"
        "#;
        let BadSettings(mistakes) = Settings::parse(text, &none).unwrap_err();
        let said = mistakes.join("\n");
        for place in [
            "broker.url:",
            "broker.shards:",
            "broker.prefix:",
            "broker.lane_weights:",
            "broker.urll:",
            "slots.python:",
            "jobs.wall_max_ms:",
            "tenants.users:",
            "worker.admin:",
            "color:",
        ] {
            assert!(said.contains(place), "{place} is not in\n{said}");
        }
        assert_eq!(mistakes.len(), 10, "{said}");
    }

    #[test]
    fn a_job_must_not_be_longer_than_the_broker_waits() {
        let text = "[broker]\nurl = \"amqp://x\"\nconsumer_timeout_s = 600\n[jobs]\nwall_max_ms = 600000\n";
        let said = Settings::parse(text, &none).unwrap_err().to_string();
        assert!(said.contains("consumer_timeout"), "{said}");
    }

    #[test]
    fn a_password_is_not_printed() {
        let text = "[broker]\nurl = \"amqp://user:secret@host/v\"\n";
        let printed = format!("{:?}", Settings::parse(text, &none).unwrap());
        assert!(printed.contains("host") && !printed.contains("secret"), "{printed}");
    }
}

//! The scripts, each loaded by the server when it is first asked.

use std::sync::LazyLock;

use hearth_pool::redis_server::script;
use redis::Script;

pub(super) static REGISTER: LazyLock<Script> = LazyLock::new(|| of_job(include_str!("register.lua")));
pub(super) static BEGIN: LazyLock<Script> = LazyLock::new(|| of_job(include_str!("begin.lua")));
pub(super) static GIVE_BACK: LazyLock<Script> = LazyLock::new(|| of_job(include_str!("give_back.lua")));
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| of_job(include_str!("commit.lua")));
pub(super) static PUBLISHED: LazyLock<Script> = LazyLock::new(|| script(include_str!("published.lua")));
pub(super) static CANCEL: LazyLock<Script> = LazyLock::new(|| of_job(include_str!("cancel.lua")));
pub(super) static SEIZE: LazyLock<Script> = LazyLock::new(|| of_job(include_str!("seize.lua")));
pub(super) static HEARTBEATS: LazyLock<Script> = LazyLock::new(|| script(include_str!("heartbeats.lua")));
pub(super) static OVERDUE: LazyLock<Script> = LazyLock::new(|| script(include_str!("overdue.lua")));
pub(super) static UNPUBLISHED: LazyLock<Script> = LazyLock::new(|| script(include_str!("unpublished.lua")));
pub(super) static LEAD: LazyLock<Script> = LazyLock::new(|| script(include_str!("lead.lua")));
pub(super) static RUNNING: LazyLock<Script> = LazyLock::new(|| script(include_str!("running.lua")));

fn of_job(body: &str) -> Script {
    script(&[include_str!("job.lua"), body].concat())
}

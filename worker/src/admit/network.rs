//! What a job may reach.

use hearth_pool::net::{Policy, Target, with_card};
use hearth_schemas::{
    job::NetworkRequest,
    limits::DESTINATIONS_MAX,
    result::{Refusal, RefusalCode},
};

use super::{NetworkTerms, invalid};

/// The job's policy, if it asks for a network.
pub(super) fn policy(request: &NetworkRequest, terms: &NetworkTerms) -> Result<Option<Policy>, Refusal> {
    let NetworkRequest::Allow(entries) = request else { return Ok(None) };
    if !(1..=DESTINATIONS_MAX).contains(&entries.len()) {
        let message = format!("has {} entries; allowed are 1 to {DESTINATIONS_MAX}", entries.len());
        return Err(invalid("network.allow", message));
    }
    let mut policy = Policy::default();
    for (index, entry) in entries.iter().enumerate() {
        let field = || format!("network.allow[{index}]");
        policy.add(entry).map_err(|error| invalid(field(), error.to_string()))?;
    }
    let permitted = |target: &&Target| {
        terms.private.iter().any(|private| private.contains(&target.range))
            || terms.host.iter().any(|service| target.is(*service))
    };
    if let Some(target) = policy.blocked_targets().find(|target| !permitted(target)) {
        let range = target.range;
        let message = format!(
            "{range} is private; the operator allows that by `network.private`, an address and port of the host itself by \
             `network.host`"
        );
        return Err(invalid("network.allow", message));
    }
    Ok(Some(policy))
}

/// What the pool and the queues call the VMs of such a job.
pub(super) fn pool_key(runtime: &str, policy: Option<&Policy>) -> String {
    if policy.is_some() { with_card(runtime) } else { runtime.to_owned() }
}

/// There are VMs of the runtime, and none of them has a network.
pub(super) fn not_offered(runtime: &str) -> Refusal {
    let message = format!(
        "no VM of `{runtime}` has a network here; allowed is \"none\". The operator offers them by \
         `hearth bake {0}` and slots of \"{0}\"",
        with_card(runtime)
    );
    Refusal::new(RefusalCode::NotSupported, "network", message)
}

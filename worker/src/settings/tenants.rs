//! Who is whose, and how much of each tenant may run.

use std::collections::BTreeMap;

use hearth_schemas::job::is_name;
use toml::{Table, Value};

use super::read::{Mistakes, Overrides, Section};
use crate::ledger::{Quotas, Rate, TenantLimits};

/// The most jobs of a tenant that can be asked to run at once.
const RUNNING_MOST: i64 = 1_000_000;
/// The most jobs of a tenant that can be asked to begin in a minute.
const STARTS_MOST: i64 = 10_000_000;

/// What `[tenants]` says.
pub(super) struct Tenants {
    pub users: BTreeMap<String, String>,
    pub trusted: Vec<String>,
    pub trusts_unnamed: bool,
    pub quotas: Quotas,
}

pub(super) fn read(whole: &mut Table, overrides: Overrides<'_>, mistakes: &mut Mistakes) -> Tenants {
    let mut section = Section::take(whole, "tenants", overrides, mistakes);
    let users = section.field("users", mistakes, users).unwrap_or_default();
    let trusted = section.texts("trusted", mistakes).unwrap_or_default();
    let trusts_unnamed = section.flag("trust_unnamed", false, mistakes);
    let default = section.field("default", mistakes, limits).unwrap_or_default();
    let tenants = section.field("limits", mistakes, by_tenant).unwrap_or_default();
    section.end(mistakes);
    Tenants { users, trusted, trusts_unnamed, quotas: Quotas { default, tenants } }
}

fn users(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let wrong = || format!("{value} given; allowed is a table from users to tenants");
    let mut users = BTreeMap::new();
    for (user, tenant) in value.as_table().ok_or_else(wrong)? {
        let tenant = tenant.as_str().filter(|tenant| is_name(tenant)).ok_or_else(wrong)?;
        users.insert(user.clone(), tenant.to_owned());
    }
    Ok(users)
}

fn by_tenant(value: &Value) -> Result<BTreeMap<String, TenantLimits>, String> {
    let table = value.as_table().ok_or_else(|| format!("{value} given; allowed is a table by tenant"))?;
    let mut tenants = BTreeMap::new();
    for (tenant, value) in table {
        if !is_name(tenant) {
            return Err(format!("{tenant:?} is no name of a tenant"));
        }
        tenants.insert(tenant.clone(), limits(value).map_err(|what| format!("{tenant}: {what}"))?);
    }
    Ok(tenants)
}

/// Absent is unlimited; a burst is what begins in a second, unless said otherwise.
fn limits(value: &Value) -> Result<TenantLimits, String> {
    let known = "running_max, starts_per_minute, burst";
    let table = value.as_table().ok_or_else(|| format!("{value} given; allowed is a table of {known}"))?;
    if let Some(name) = table.keys().find(|name| !known.split(", ").any(|known| known == *name)) {
        return Err(format!("{name} is not known; known are {known}"));
    }
    let number = |name: &str, most: i64| match table.get(name) {
        None => Ok(None),
        Some(value) => {
            let number = value.as_integer().filter(|number| (1..=most).contains(number));
            number
                .and_then(|number| u32::try_from(number).ok())
                .map(Some)
                .ok_or_else(|| format!("{name} is {value}; allowed is a whole number from 1 to {most}"))
        }
    };
    let (running_max, burst) = (number("running_max", RUNNING_MOST)?, number("burst", STARTS_MOST)?);
    let starts = number("starts_per_minute", STARTS_MOST)?;
    if starts.is_none() && burst.is_some() {
        return Err("burst is given without starts_per_minute".to_owned());
    }
    let rate = |per_minute: u32| Rate { per_minute, burst: burst.unwrap_or((per_minute / 60).max(1)) };
    Ok(TenantLimits { running_max, starts: starts.map(rate) })
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use crate::ledger::{Rate, TenantLimits};

    fn parse(tenants: &str) -> Result<Settings, String> {
        let text = format!("[broker]\nurl = \"amqp://x\"\n{tenants}");
        Settings::parse(&text, &|_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_tenant_has_its_own_limits_or_the_default() {
        let settings = parse(
            "[tenants]\ndefault = { running_max = 4 }\n[tenants.limits.acme]\nstarts_per_minute = 600\n[tenants.limits.free]\n",
        );
        let quotas = settings.unwrap().quotas;
        let four = TenantLimits { running_max: Some(4), starts: None };
        assert_eq!(quotas.of("anybody"), four);
        let rate = Rate { per_minute: 600, burst: 10 };
        assert_eq!(quotas.of("acme"), TenantLimits { running_max: None, starts: Some(rate) });
        assert_eq!(quotas.of("free"), TenantLimits::default(), "a table of its own without limits has none");
        assert_eq!(parse("").unwrap().quotas.of("anybody"), TenantLimits::default());
    }

    #[test]
    fn a_limit_that_is_none_is_named() {
        for (limits, said) in [
            ("default = 3", "tenants.default"),
            ("default = { running_max = 0 }", "running_max is 0"),
            ("default = { burst = 3 }", "without starts_per_minute"),
            ("default = { speed = 3 }", "speed is not known"),
            ("limits = { acme = { starts_per_minute = -1 } }", "acme: starts_per_minute is -1"),
            ("limits = { \"a b\" = {} }", "no name of a tenant"),
        ] {
            let error = parse(&format!("[tenants]\n{limits}\n")).unwrap_err();
            assert!(error.contains(said), "{limits}: {error}");
        }
    }
}

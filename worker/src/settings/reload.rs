//! What new settings change while a worker runs, and what only once it is started again. Pure.

use super::Settings;

/// Fields that differ, by where they stand in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In force from now on.
    pub applied: Vec<&'static str>,
    /// In force after a restart; until then the old ones are.
    pub need_restart: Vec<&'static str>,
}

impl Settings {
    /// What a reload changes: tenants, limits of jobs, where results may go, and which log records are written.
    pub fn changes(&self, new: &Self) -> Changes {
        let differ = |list: &[(&'static str, bool)]| {
            list.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
        };
        let (broker, new_broker) = (&self.broker, &new.broker);
        let mut unlike = new_broker.clone();
        unlike.reply_to.clone_from(&broker.reply_to);
        unlike.message_max_bytes = broker.message_max_bytes;
        let applied = differ(&[
            (
                "tenants",
                (&self.tenants, &self.trusted, self.trusts_unnamed, &self.quotas)
                    != (&new.tenants, &new.trusted, new.trusts_unnamed, &new.quotas),
            ),
            ("jobs", (self.job_wall_max, self.deadline_ms) != (new.job_wall_max, new.deadline_ms)),
            ("broker.reply_to", broker.reply_to != new_broker.reply_to),
            ("broker.message_max_mib", broker.message_max_bytes != new_broker.message_max_bytes),
            ("telemetry.log", self.telemetry.log != new.telemetry.log),
        ]);
        let need_restart = differ(&[
            ("broker", *broker != unlike),
            ("redis", self.redis != new.redis),
            ("slots", self.slots != new.slots),
            ("pool", self.pool != new.pool),
            ("network", self.network != new.network),
            ("vms", self.rates != new.rates),
            ("telemetry.otlp_endpoint", self.telemetry.otlp_endpoint != new.telemetry.otlp_endpoint),
            ("worker.admin", self.admin != new.admin),
            ("worker.grace_s", self.grace != new.grace),
            ("worker.spool", (&self.spool, self.spool_max_bytes) != (&new.spool, new.spool_max_bytes)),
        ]);
        Changes { applied, need_restart }
    }

    /// These with the fields of `new` that are in force at once.
    pub fn reloaded(&mut self, new: Self) {
        (self.tenants, self.trusted, self.quotas) = (new.tenants, new.trusted, new.quotas);
        (self.trusts_unnamed, self.objects) = (new.trusts_unnamed, new.objects);
        (self.job_wall_max, self.deadline_ms) = (new.job_wall_max, new.deadline_ms);
        self.broker.reply_to = new.broker.reply_to;
        self.broker.message_max_bytes = new.broker.message_max_bytes;
        self.telemetry.log = new.telemetry.log;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::parse(&format!("[broker]\nurl = \"amqp://x\"\n{text}"), &|_| None).unwrap()
    }

    #[test]
    fn what_changes_is_named_and_so_is_what_needs_a_restart() {
        let old = settings("");
        assert_eq!(old.changes(&old), Changes::default());
        let new = settings(
            "shards = 4\nreply_to = [\"x.*\"]\n[slots]\npython = 2\n[jobs]\nwall_max_ms = 5000\n\
             [tenants]\ntrusted = [\"ops\"]\n[telemetry]\nlog = \"debug\"\notlp_endpoint = \"http://c:4318\"\n",
        );
        let changes = old.changes(&new);
        assert_eq!(changes.applied, ["tenants", "jobs", "broker.reply_to", "telemetry.log"]);
        assert_eq!(changes.need_restart, ["broker", "slots", "telemetry.otlp_endpoint"]);
        let mut now = old;
        now.reloaded(new.clone());
        let after = now.changes(&new);
        assert_eq!((after.applied, after.need_restart), (Vec::new(), changes.need_restart));
    }
}

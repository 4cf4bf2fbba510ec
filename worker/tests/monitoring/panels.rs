//! What the dashboard shows: rows of panels with their questions to Prometheus. `$runtime` and `$instance` are chosen above them.

use super::dashboard::{
    Kind::{Lines, Number, Stack},
    Panel, Row,
};

/// Of `hearth_pool_claims_total` and others: the chosen runtimes and workers.
macro_rules! chosen {
    ($name:literal $(, $more:literal)?) => {
        concat!($name, "{runtime=~\"$runtime\",instance=~\"$instance\"", $(",", $more,)? "}")
    };
}

/// The same over the time that a panel's width asks for, as a rate.
macro_rules! rate {
    ($name:literal $(, $more:literal)?) => {
        concat!("rate(", chosen!($name $(, $more)?), "[$__rate_interval])")
    };
}

/// For metrics without a runtime.
macro_rules! here {
    ($name:literal $(, $more:literal)?) => {
        concat!($name, "{instance=~\"$instance\"", $(",", $more,)? "}")
    };
}

macro_rules! rate_here {
    ($name:literal $(, $more:literal)?) => {
        concat!("rate(", here!($name $(, $more)?), "[$__rate_interval])")
    };
}

macro_rules! quantile {
    ($q:literal, $by:literal, $rate:expr) => {
        concat!("histogram_quantile(", $q, ", sum by (le", $by, ") (", $rate, "))")
    };
}

pub const ROWS: &[Row] = &[
    Row {
        title: "Now",
        panels: &[
            Panel {
                title: "Workers that take jobs",
                help: "Of all workers that Prometheus knows, those that say at /ready that they can take jobs.",
                kind: Number,
                unit: "none",
                width: 4,
                queries: &[(concat!("sum(", here!("hearth_worker_ready"), ")"), "ready")],
            },
            Panel {
                title: "Jobs under way",
                help: "Jobs that a worker has in hand, with a VM or waiting for one.",
                kind: Number,
                unit: "none",
                width: 4,
                queries: &[(concat!("sum(", here!("hearth_jobs_inflight"), ")"), "jobs")],
            },
            Panel {
                title: "Hit ratio, last 15 minutes",
                help: "Of all claims, those that found a VM Ready.",
                kind: Number,
                unit: "percentunit",
                width: 4,
                queries: &[(
                    concat!(
                        "sum(increase(",
                        chosen!("hearth_pool_claims_total", "outcome=\"hit\""),
                        "[15m])) / sum(increase(",
                        chosen!("hearth_pool_claims_total"),
                        "[15m]))"
                    ),
                    "hits",
                )],
            },
            Panel {
                title: "Slots in quarantine",
                help: "Their VMs could not be destroyed, so they take no other. It is tried again; the log says why it fails.",
                kind: Number,
                unit: "none",
                width: 4,
                queries: &[(
                    concat!("sum(", chosen!("hearth_pool_slots", "phase=\"quarantined\""), ")"),
                    "slots",
                )],
            },
            Panel {
                title: "Dead letters, last hour",
                help: "Messages that the broker had given up on. `hearth dead list` shows them.",
                kind: Number,
                unit: "none",
                width: 4,
                queries: &[(concat!("sum(increase(", here!("hearth_fallen_total"), "[1h]))"), "messages")],
            },
            Panel {
                title: "Results on disk",
                help: "Results that wait for the broker or the ledger. None while both are there.",
                kind: Number,
                unit: "none",
                width: 4,
                queries: &[(concat!("sum(", here!("hearth_results_spooled"), ")"), "results")],
            },
        ],
    },
    Row {
        title: "Jobs",
        panels: &[
            Panel {
                title: "Results by status",
                help: "infra_error is our own fault, and an alert.",
                kind: Stack,
                unit: "ops",
                width: 12,
                queries: &[(concat!("sum by (status) (", rate!("hearth_jobs_total"), ")"), "{{status}}")],
            },
            Panel {
                title: "Results by verdict",
                help: "What became of the code of jobs that finished.",
                kind: Stack,
                unit: "ops",
                width: 12,
                queries: &[(
                    concat!("sum by (verdict) (", rate!("hearth_jobs_total", "status=\"finished\""), ")"),
                    "{{verdict}}",
                )],
            },
            Panel {
                title: "Steps of a job, p95",
                help: "queued and claim are waiting; the others are work. All workers and runtimes together.",
                kind: Lines,
                unit: "s",
                width: 12,
                queries: &[(
                    quantile!("0.95", ", step", rate_here!("hearth_job_step_seconds_bucket")),
                    "{{step}}",
                )],
            },
            Panel {
                title: "Results by publication",
                help: "failed and spooled: the broker did not take them yet. reply_to_gone: the queue that was to have it is no more.",
                kind: Stack,
                unit: "ops",
                width: 12,
                queries: &[(
                    concat!("sum by (outcome) (", rate_here!("hearth_result_publish_total"), ")"),
                    "{{outcome}}",
                )],
            },
        ],
    },
    Row {
        title: "Pool",
        panels: &[
            Panel {
                title: "Hit ratio",
                help: "Of all claims, those that found a VM Ready; dashed what the settings promise, where they do.",
                kind: Lines,
                unit: "percentunit",
                width: 12,
                queries: &[
                    (
                        concat!(
                            "sum by (runtime) (",
                            rate!("hearth_pool_claims_total", "outcome=\"hit\""),
                            ") / sum by (runtime) (",
                            rate!("hearth_pool_claims_total"),
                            ")"
                        ),
                        "{{runtime}}",
                    ),
                    (concat!("max(", here!("hearth_pool_target_hit_ratio"), ")"), "target"),
                ],
            },
            Panel {
                title: "Wait for a VM",
                help: "From the claim to the VM; dashed how long a claim may wait by the settings.",
                kind: Lines,
                unit: "s",
                width: 12,
                queries: &[
                    (
                        quantile!("0.5", ", runtime", rate!("hearth_pool_claim_wait_seconds_bucket")),
                        "{{runtime}} p50",
                    ),
                    (
                        quantile!("0.95", ", runtime", rate!("hearth_pool_claim_wait_seconds_bucket")),
                        "{{runtime}} p95",
                    ),
                    (
                        quantile!("0.99", ", runtime", rate!("hearth_pool_claim_wait_seconds_bucket")),
                        "{{runtime}} p99",
                    ),
                    (concat!("max(", here!("hearth_pool_target_wait_seconds"), ")"), "target"),
                ],
            },
            Panel {
                title: "Slots by phase",
                help: "A slot holds one VM at most. Cooling: the last try failed. Quarantined: its VM could not be destroyed.",
                kind: Stack,
                unit: "none",
                width: 12,
                queries: &[(concat!("sum by (phase) (", chosen!("hearth_pool_slots"), ")"), "{{phase}}")],
            },
            Panel {
                title: "Jobs that wait on the broker",
                help: "For whichever worker; each worker says what it knows, and the most is shown.",
                kind: Lines,
                unit: "none",
                width: 12,
                queries: &[(
                    concat!("max by (runtime) (", chosen!("hearth_jobs_waiting"), ")"),
                    "{{runtime}}",
                )],
            },
            Panel {
                title: "Ready VMs and their target",
                help: "What the pool is to keep warm; dashed the target.",
                kind: Lines,
                unit: "none",
                width: 12,
                queries: &[
                    (
                        concat!("sum by (runtime) (", chosen!("hearth_pool_slots", "phase=\"ready\""), ")"),
                        "{{runtime}} ready",
                    ),
                    (concat!("sum by (runtime) (", chosen!("hearth_pool_target"), ")"), "{{runtime}} target"),
                ],
            },
        ],
    },
    Row {
        title: "VMs",
        panels: &[
            Panel {
                title: "Restore, mean of each step",
                help: "From nothing to a confirmed wake. The steps add up to one restore.",
                kind: Stack,
                unit: "s",
                width: 12,
                queries: &[(
                    concat!(
                        "sum by (step) (",
                        rate!("hearth_restore_seconds_sum"),
                        ") / sum by (step) (",
                        rate!("hearth_restore_seconds_count"),
                        ")"
                    ),
                    "{{step}}",
                )],
            },
            Panel {
                title: "Refill",
                help: "From a slot without a VM to one that is ready: turns, leases and failed tries included.",
                kind: Lines,
                unit: "s",
                width: 12,
                queries: &[
                    (
                        quantile!("0.5", ", runtime", rate!("hearth_pool_refill_seconds_bucket")),
                        "{{runtime}} p50",
                    ),
                    (
                        quantile!("0.95", ", runtime", rate!("hearth_pool_refill_seconds_bucket")),
                        "{{runtime}} p95",
                    ),
                ],
            },
            Panel {
                title: "Why VMs go",
                help: "finished is the ordinary end. restore_failed, greeting_failed, exited and lease_at_risk are trouble.",
                kind: Stack,
                unit: "ops",
                width: 12,
                queries: &[(concat!("sum by (why) (", rate!("hearth_vm_retired_total"), ")"), "{{why}}")],
            },
            Panel {
                title: "Age at the end, p50",
                help: "From its restore. Old VMs were warm for long without a claim: the target is too high.",
                kind: Lines,
                unit: "s",
                width: 12,
                queries: &[(
                    quantile!("0.5", ", runtime", rate!("hearth_vm_age_seconds_bucket")),
                    "{{runtime}}",
                )],
            },
        ],
    },
    Row {
        title: "What workers stand on",
        panels: &[
            Panel {
                title: "Leases",
                help: "renewal_failed: the store did not answer. lost: VMs were ended for it.",
                kind: Lines,
                unit: "ops",
                width: 12,
                queries: &[(
                    concat!("sum by (event) (", rate_here!("hearth_lease_events_total"), ")"),
                    "{{event}}",
                )],
            },
            Panel {
                title: "Broker",
                help: "Connections made anew, messages that had been delivered before, messages that it gave up on.",
                kind: Lines,
                unit: "ops",
                width: 12,
                queries: &[
                    (concat!("sum(", rate_here!("hearth_amqp_reconnects_total"), ")"), "reconnects"),
                    (concat!("sum(", rate_here!("hearth_redelivered_total"), ")"), "redelivered"),
                    (concat!("sum(", rate_here!("hearth_fallen_total"), ")"), "dead letters"),
                ],
            },
            Panel {
                title: "Files and streams of jobs",
                help: "Into VMs and out of them, counted when a claim ends.",
                kind: Lines,
                unit: "Bps",
                width: 8,
                queries: &[(
                    concat!(
                        "sum by (direction, transport) (",
                        rate_here!("hearth_transfer_bytes_total"),
                        ")"
                    ),
                    "{{direction}} {{transport}}",
                )],
            },
            Panel {
                title: "Live events",
                help: "Told to whoever watches; dropped bytes are output that a slow reader missed.",
                kind: Lines,
                unit: "short",
                width: 8,
                queries: &[
                    (concat!("sum by (kind) (", rate_here!("hearth_live_events_total"), ")"), "{{kind}}"),
                    (concat!("sum(", rate_here!("hearth_live_dropped_bytes_total"), ")"), "dropped bytes"),
                ],
            },
            Panel {
                title: "Left by dead workers",
                help: "What was cleared up at a start.",
                kind: Lines,
                unit: "short",
                width: 8,
                queries: &[(
                    concat!("sum by (kind) (increase(", here!("hearth_orphans_reclaimed_total"), "[1h]))"),
                    "{{kind}}",
                )],
            },
        ],
    },
];

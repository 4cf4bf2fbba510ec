//! Which users the broker should let do what, as data: the regular expressions that RabbitMQ takes.

use std::fmt;

use serde::Serialize;

use super::names::Names;

/// What one kind of user needs, and no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Permissions {
    /// The kind of user.
    pub role: &'static str,
    /// What it may declare and delete.
    pub configure: String,
    /// Which exchanges it may publish to, and which queues it may bind.
    pub write: String,
    /// Which queues it may consume, and which exchanges it may bind to.
    pub read: String,
}

/// Queues that get their names from the broker.
const OWN: &str = r"amq\.gen-.*";
/// What publishing straight to a queue is checked against.
const STRAIGHT: &str = r"amq\.default";

impl Permissions {
    /// Sends jobs, and has its results in a queue of its own.
    ///
    /// It cannot publish straight to queues, and so neither to run queues, whose messages are believed, nor anybody's
    /// results; nor cancel, since a cancel is believed too.
    pub fn producer(names: &Names) -> Self {
        let jobs = quoted(&names.jobs());
        Self { role: "producer", configure: any(&[OWN]), write: any(&[&jobs]), read: any(&[OWN]) }
    }

    /// As a producer, and cancels jobs and looks after the dead, in whosever name they were sent.
    pub fn operator(names: &Names) -> Self {
        let all = [names.jobs(), names.retried(), names.control(), names.dead()];
        let [jobs, retried, control, dead] = all.map(|name| quoted(&name));
        Self {
            role: "operator",
            configure: any(&[OWN]),
            write: any(&[&jobs, &retried, &control]),
            read: any(&[OWN, &dead]),
        }
    }

    /// Takes jobs, and sends results to whatever queue a job names.
    pub fn worker(names: &Names) -> Self {
        let ours = format!(r"{}\..*", quoted(names.prefix()));
        Self {
            role: "worker",
            configure: any(&[&ours, OWN]),
            write: any(&[&ours, OWN, STRAIGHT]),
            read: any(&[&ours, OWN]),
        }
    }

    /// All kinds.
    pub fn all(names: &Names) -> [Self; 3] {
        [Self::worker(names), Self::producer(names), Self::operator(names)]
    }
}

fn quoted(name: &str) -> String {
    name.replace('.', r"\.")
}

fn any(of: &[&str]) -> String {
    format!("^({})$", of.join("|"))
}

/// One line, as `rabbitmqctl set_permissions` takes it.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, configure, write, read } = self;
        write!(f, "permissions {role} '{configure}' '{write}' '{read}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_one_line_of_three_expressions() {
        let names = Names::default();
        let [worker, producer, operator] = Permissions::all(&names).map(|all| all.to_string());
        assert_eq!(producer, r"permissions producer '^(amq\.gen-.*)$' '^(hearth\.jobs)$' '^(amq\.gen-.*)$'");
        assert!(worker.contains(r"'^(hearth\..*|amq\.gen-.*|amq\.default)$'"), "{worker}");
        assert!(operator.contains(r"'^(hearth\.jobs|hearth\.retried|hearth\.control)$'"), "{operator}");
    }
}

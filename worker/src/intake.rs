//! From a message to a job, or to the refusal that answers it. Pure.

use std::collections::BTreeMap;

use hearth_schemas::{
    job::{is_name, parse, probe},
    result::{JobResult, Refusal, RefusalCode, Status},
};

use crate::{
    admit::{Job, Producer, Terms, admit},
    amqp::reply::ReplyRule,
    ledger::Quotas,
    objects::Objects,
    reduce::ResultTerms,
    seams::Properties,
    threads::heavy,
};

/// The tenant of whoever has no other.
pub const DEFAULT_TENANT: &str = "default";

/// What intake knows.
#[derive(Clone, Debug)]
pub struct Intake {
    /// Under which terms jobs are taken.
    pub terms: Terms,
    /// Tenants by the broker's user; whoever is not in it is [`DEFAULT_TENANT`].
    pub tenants: BTreeMap<String, String>,
    /// Users whose requests may name any tenant.
    pub trusted: Vec<String>,
    /// Whether a request may name any tenant that does not say whose it is: in one process, where there is no user.
    pub trusts_unnamed: bool,
    /// How much of each tenant may run.
    pub quotas: Quotas,
    /// This worker's name.
    pub worker: String,
    /// Where results may be sent. In one process, where that is no queue's name, there is no rule.
    pub reply: Option<ReplyRule>,
    /// How large messages with results may be. In one process, where there are none, a result is always whole.
    pub results: Option<ResultTerms>,
    /// Where objects are; `terms.objects` says who may have which.
    pub objects: Objects,
}

impl Intake {
    /// Intake of a single process.
    pub fn embedded(terms: Terms, worker: &str) -> Self {
        Self {
            terms,
            tenants: BTreeMap::new(),
            trusted: Vec::new(),
            trusts_unnamed: true,
            quotas: Quotas::default(),
            worker: worker.into(),
            reply: None,
            results: None,
            objects: Objects::none(),
        }
    }

    /// Admits a message, or makes the result that refuses it. `new_id` is for a message that brings none.
    ///
    /// # Errors
    /// The refusal, as the producer gets it.
    pub fn job(&self, body: &[u8], properties: &Properties, new_id: &str) -> Result<Job, Box<JobResult>> {
        let tenant = properties.user_id.as_ref().and_then(|user| self.tenants.get(user));
        let fallback_id = properties.message_id.as_deref().filter(|id| is_name(id)).unwrap_or(new_id);
        let producer = Producer {
            fallback_id,
            tenant: tenant.map_or(DEFAULT_TENANT, String::as_str),
            may_name_tenant: match &properties.user_id {
                Some(user) => self.trusted.contains(user),
                None => self.trusts_unnamed,
            },
        };
        let admitted = heavy(body.len(), || {
            let request = parse(body).map_err(Refusal::from)?;
            admit(request, &self.terms, &producer)
        });
        let admitted = admitted.and_then(|job| self.reply_to(properties).map(|()| job));
        admitted.map_err(|refusal| {
            let seen = probe(body);
            let id = seen.id.as_deref().unwrap_or(fallback_id);
            let runtime = seen.runtime.unwrap_or_default();
            let mut result = JobResult::new(id, producer.tenant, runtime, Status::Refused);
            result.refusal = Some(refusal);
            result.worker = Some(self.worker.clone());
            Box::new(result)
        })
    }

    /// Whether a result may go to this queue.
    pub fn replies_to(&self, queue: &str) -> bool {
        self.reply.as_ref().is_none_or(|rule| rule.check(queue).is_ok())
    }

    fn reply_to(&self, properties: &Properties) -> Result<(), Refusal> {
        match (&self.reply, &properties.reply_to) {
            (Some(rule), Some(queue)) => rule
                .check(queue)
                .map_err(|error| Refusal::new(RefusalCode::Invalid, "reply_to", error.to_string())),
            _ => Ok(()),
        }
    }
}

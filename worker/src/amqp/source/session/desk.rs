//! What becomes of a message.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        office::{FallError, Message, ParkError, Parked, Reception, Slip},
        receipt::{AmqpReceipt, PARK_PAUSE, ack, requeue},
        ticket,
        unsettled::Unsettled,
    },
    Session, Work,
};
use crate::{
    amqp::{control::RunQueue, headers::Origin},
    attempt::chain,
    ledger::JobKey,
    meters,
    seams::{Delivery, Properties},
};

/// How long a job that another worker should run is kept from going back at once.
const AVOID_PAUSE: Duration = Duration::from_millis(300);

impl Session<'_> {
    /// Decides about a message of the intake.
    pub(super) fn came_in(&mut self, delivery: lapin::message::Delivery) {
        let origin = Origin::of_intake(delivery.exchange.as_str(), &self.config.names);
        let (message, unsettled) = message(delivery, origin, &self.consuming);
        match self.shared.office.receive(message.clone()) {
            Reception::Refused(properties) => self.hand_on_refused(message, properties, unsettled),
            Reception::Nobody(why) => self.bury(message, unsettled, why),
            Reception::Job(slip) => {
                let Some(unsettled) = self.shared.adopt(&slip, unsettled) else { return };
                if slip.has_id
                    && self.is_idle(&slip.queue.runtime)
                    && !self.shared.is_limited(&slip.key.tenant)
                    && self.free(&slip.queue.runtime) > 0
                {
                    self.hand_on(slip, unsettled, true);
                } else {
                    self.park(slip, unsettled);
                }
            }
        }
    }

    /// A ticket brought a message.
    pub(super) fn fetched(&mut self, queue: RunQueue, delivery: lapin::message::Delivery) {
        let (message, unsettled) = message(delivery, Origin::Run, &self.tickets);
        match self.shared.office.receive(message.clone()) {
            Reception::Refused(properties) => self.hand_on_refused(message, properties, unsettled),
            Reception::Nobody(why) => self.bury(message, unsettled, why),
            Reception::Job(mut slip) => {
                slip.queue = queue;
                let Some(unsettled) = self.shared.adopt(&slip, unsettled) else { return };
                if slip.avoid.includes(&self.shared.worker) {
                    self.leave_to_others(slip, unsettled);
                } else {
                    self.hand_on(slip, unsettled, true);
                }
            }
        }
    }

    /// Gives a job back that this worker failed at, if there is another worker: each consumes the intake once.
    fn leave_to_others(&self, slip: Box<Slip>, unsettled: Unsettled) {
        let (office, channel) = (self.shared.office.clone(), self.looking.clone());
        let intake = self.config.names.intake();
        self.push(async move {
            match ticket::look(channel, intake).await {
                Ok(seen) if seen.consumers > 1 => {}
                _ => return Work::Unavoidable(slip, unsettled),
            }
            tokio::time::sleep(AVOID_PAUSE).await;
            requeue(&[unsettled]).await;
            office.ring(vec![slip.queue]).await;
            Work::Done
        });
    }

    pub(super) fn hand_on(&mut self, slip: Box<Slip>, unsettled: Unsettled, placed: bool) {
        if slip.properties.redelivered {
            meters::REDELIVERED.count(&[]);
        }
        let mut properties = slip.properties.clone();
        properties.message_id.get_or_insert_with(|| slip.key.id.clone());
        let body = slip.message.body.clone();
        let held = self.shared.hold(unsettled, Some(slip), placed);
        self.ready.push_back(Delivery { body, properties, receipt: AmqpReceipt::new(self.shared, held) });
    }

    pub(super) fn hand_on_refused(&mut self, message: Message, properties: Properties, unsettled: Unsettled) {
        let held = self.shared.hold(unsettled, None, false);
        let receipt = AmqpReceipt::new(self.shared, held);
        self.ready.push_back(Delivery { body: message.body, properties, receipt });
    }

    pub(super) fn park(&self, slip: Box<Slip>, unsettled: Unsettled) {
        let office = self.shared.office.clone();
        self.push(async move {
            loop {
                match office.park(&slip, &slip.avoid).await {
                    Ok(Parked::Parked) => break,
                    Ok(Parked::Decided) => return Work::Decided(slip, unsettled),
                    Err(error) if unsettled.usable() => not_yet(&slip.key, &error).await,
                    Err(_) => break,
                }
            }
            ack(&[unsettled]);
            Work::Done
        });
    }

    pub(super) fn bury(&self, message: Message, unsettled: Unsettled, why: String) {
        let office = self.shared.office.clone();
        self.push(async move {
            while unsettled.usable() {
                match office.bury(&message, &why, 0).await {
                    Ok(()) => {
                        ack(std::slice::from_ref(&unsettled));
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(
                            error = chain(&error),
                            "a message is not in the queue of the dead yet"
                        );
                        tokio::time::sleep(PARK_PAUSE).await;
                    }
                }
            }
            Work::Done
        });
    }

    pub(super) fn fell(&self, delivery: lapin::message::Delivery) {
        let origin = Origin::of_fallen(&delivery.properties, &self.config.names);
        let (message, unsettled) = message(delivery, origin, &self.consuming);
        let office = self.shared.office.clone();
        self.push(async move {
            while unsettled.usable() {
                let pause = match office.fallen(&message).await {
                    Ok(()) => {
                        meters::FALLEN.count(&[]);
                        ack(std::slice::from_ref(&unsettled));
                        break;
                    }
                    Err(FallError::Held(lapses_in)) => lapses_in,
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "a fallen job is not ended yet");
                        PARK_PAUSE
                    }
                };
                tokio::time::sleep(pause).await;
            }
            Work::Done
        });
    }
}

async fn not_yet(key: &JobKey, error: &ParkError) {
    tracing::warn!(job = %key, error = chain(error), "not parked yet");
    tokio::time::sleep(PARK_PAUSE).await;
}

fn message(
    delivery: lapin::message::Delivery,
    origin: Origin,
    channel: &Arc<lapin::Channel>,
) -> (Message, Unsettled) {
    let unsettled = Unsettled::new(&delivery, channel);
    let lapin::message::Delivery { data, properties, redelivered, .. } = delivery;
    (Message { body: data.into(), raw: properties, redelivered, origin }, unsettled)
}

//! What becomes of a message.

use std::time::Duration;

use super::{
    super::{
        office::{FallError, Message, ParkError, Parked, Reception, Slip},
        receipt::{AmqpReceipt, PARK_PAUSE, ack, requeue},
        ticket,
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
        let (message, acker) = message(delivery, origin);
        match self.shared.office.receive(message.clone()) {
            Reception::Refused(properties) => self.hand_on_refused(message, properties, acker),
            Reception::Nobody(why) => self.bury(message, acker, why),
            Reception::Job(slip) => {
                let Some(acker) = self.shared.adopt(&slip, acker) else { return };
                if slip.has_id
                    && self.is_idle(&slip.queue.runtime)
                    && !self.shared.is_limited(&slip.key.tenant)
                    && self.free(&slip.queue.runtime) > 0
                {
                    self.hand_on(slip, acker, true);
                } else {
                    self.park(slip, acker);
                }
            }
        }
    }

    /// A ticket brought a message.
    pub(super) fn fetched(&mut self, queue: RunQueue, delivery: lapin::message::Delivery) {
        let (message, acker) = message(delivery, Origin::Run);
        match self.shared.office.receive(message.clone()) {
            Reception::Refused(properties) => self.hand_on_refused(message, properties, acker),
            Reception::Nobody(why) => self.bury(message, acker, why),
            Reception::Job(mut slip) => {
                slip.queue = queue;
                let Some(acker) = self.shared.adopt(&slip, acker) else { return };
                if slip.avoid.includes(&self.shared.worker) {
                    self.leave_to_others(slip, acker);
                } else {
                    self.hand_on(slip, acker, true);
                }
            }
        }
    }

    /// Gives a job back that this worker failed at, if there is another worker: each consumes the intake once.
    fn leave_to_others(&self, slip: Box<Slip>, acker: lapin::Acker) {
        let (office, channel) = (self.shared.office.clone(), self.looking.clone());
        let intake = self.config.names.intake();
        self.push(async move {
            match ticket::look(channel, intake).await {
                Ok(seen) if seen.consumers > 1 => {}
                _ => return Work::Unavoidable(slip, acker),
            }
            tokio::time::sleep(AVOID_PAUSE).await;
            requeue(&[acker]).await;
            office.ring(vec![slip.queue]).await;
            Work::Done
        });
    }

    pub(super) fn hand_on(&mut self, slip: Box<Slip>, acker: lapin::Acker, placed: bool) {
        if slip.properties.redelivered {
            meters::REDELIVERED.count(&[]);
        }
        let mut properties = slip.properties.clone();
        properties.message_id.get_or_insert_with(|| slip.key.id.clone());
        let body = slip.message.body.clone();
        let held = self.shared.hold(acker, Some(slip), placed);
        self.ready.push_back(Delivery { body, properties, receipt: AmqpReceipt::new(self.shared, held) });
    }

    pub(super) fn hand_on_refused(&mut self, message: Message, properties: Properties, acker: lapin::Acker) {
        let held = self.shared.hold(acker, None, false);
        let receipt = AmqpReceipt::new(self.shared, held);
        self.ready.push_back(Delivery { body: message.body, properties, receipt });
    }

    pub(super) fn park(&self, slip: Box<Slip>, acker: lapin::Acker) {
        let office = self.shared.office.clone();
        self.push(async move {
            loop {
                match office.park(&slip, &slip.avoid).await {
                    Ok(Parked::Parked) => break,
                    Ok(Parked::Decided) => return Work::Decided(slip, acker),
                    Err(error) if acker.usable() => not_yet(&slip.key, &error).await,
                    Err(_) => break,
                }
            }
            ack(&[acker]).await;
            Work::Done
        });
    }

    pub(super) fn bury(&self, message: Message, acker: lapin::Acker, why: String) {
        let office = self.shared.office.clone();
        self.push(async move {
            while acker.usable() {
                match office.bury(&message, &why, 0).await {
                    Ok(()) => {
                        ack(std::slice::from_ref(&acker)).await;
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
        let (message, acker) = message(delivery, origin);
        let office = self.shared.office.clone();
        self.push(async move {
            while acker.usable() {
                let pause = match office.fallen(&message).await {
                    Ok(()) => {
                        meters::FALLEN.count(&[]);
                        ack(std::slice::from_ref(&acker)).await;
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

fn message(delivery: lapin::message::Delivery, origin: Origin) -> (Message, lapin::Acker) {
    let lapin::message::Delivery { data, properties, redelivered, acker, .. } = delivery;
    (Message { body: data.into(), raw: properties, redelivered, origin }, acker)
}

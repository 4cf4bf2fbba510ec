//! `hearth cancel`: ends a job, wherever it is.

use clap::Args;
use hearth_schemas::job::is_name;
use hearth_worker::{
    amqp::{
        control::Control,
        publisher::{Confirmed, Publisher},
    },
    intake::DEFAULT_TENANT,
};
use lapin::BasicProperties;

use super::{
    broker::{Broker, away},
    exit::{Exit, Failure},
};

/// Cancel jobs that wait or run; their results say `cancelled`, with what was printed until then
///
/// Exit code 0: every worker was told. 75: no worker listens, or the broker is away; nothing was cancelled.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hearth cancel 01J8Z3 --tenant acme")]
pub struct Arguments {
    /// The jobs' ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Whose jobs
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TENANT)]
    tenant: String,
    #[command(flatten)]
    broker: Broker,
}

/// Tells the workers.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    for name in arguments.ids.iter().chain([&arguments.tenant]) {
        if !is_name(name) {
            let message =
                format!("{name:?} is not a name; allowed are 1 to 64 of A-Z, a-z, 0-9, `_` and `-`");
            return Err(Failure::new(Exit::Usage, message));
        }
    }
    super::block_on(tell(arguments))
}

async fn tell(arguments: &Arguments) -> Result<Exit, Failure> {
    let exchange = arguments.broker.names()?.control();
    let publisher = Publisher::new(arguments.broker.endpoint()?, "hearth cancel");
    for id in &arguments.ids {
        let cancel = Control::Cancel { tenant: arguments.tenant.clone(), id: id.clone() }.encode();
        let told = publisher.publish(&exchange, "", BasicProperties::default(), &cancel).await;
        if told.map_err(|error| away(&error))? == Confirmed::Unroutable {
            return Err(Failure::new(Exit::Temporary, format!("no worker listens; {id} was not cancelled")));
        }
    }
    Ok(Exit::Accepted)
}

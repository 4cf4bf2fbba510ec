//! A command in a cell: prepared while another runs, and started when its turn comes.

use std::os::fd::AsFd;

use hearth_schemas::guest::messages::Exited;
use hearth_wire::Stream;

use super::{
    Begun, ExecError, bounds,
    plan::Plan,
    see_to,
    streams::{Streams, both, pipes},
    supervise::{Ended, Host, listen},
};
use crate::{
    agent::Agent,
    cells::{Order, Settings},
    jail::Jail,
};

/// What a cell is told of a command that can run in one: in a copy of the tree, with nothing of its own around it.
pub(super) fn order_for<'a>(agent: &'a Agent, plan: &Plan) -> Option<(&'a Jail, Vec<u8>)> {
    let jail = agent.jail_of(plan.user).filter(|_| plan.fresh && !plan.ip && plan.given.is_empty())?;
    let settings = Settings {
        open_files: plan.limits.open_files(),
        file_size_bytes: plan.limits.file_size_bytes,
        cpu_seconds: plan.limits.cpu_backstop_seconds(),
    };
    let Plan { cwd_in_tree: cwd, programs, argv, env, .. } = plan;
    Order { cwd, programs, argv, env, settings }.encode().map(|order| (jail, order))
}

pub(super) async fn run_in_cell(
    agent: &Agent,
    control: &mut Stream,
    plan: &Plan,
    mut streams: Streams,
    jail: &Jail,
    order: &[u8],
) -> Result<Exited, ExecError> {
    let cell = agent.cells().take(agent, jail).await?;
    let group = agent.groups().create(&bounds(plan, 0))?;
    let (ends, stdio) = pipes(&mut streams.input).map_err(ExecError::Launch)?;
    let procs = group.processes()?;
    // Until the cell is fit for the next one: what is left in it counts against the job's disk.
    let turn = tokio::select! {
        turn = agent.cells().turn(), if plan.inline => Some(turn),
        () = std::future::ready(()), if !plan.inline => None,
        Host::Kill | Host::Gone = listen(&mut control.receiver) => {
            agent.groups().remove(group).await;
            agent.cells().give_back(cell, true).await;
            return Ok(Exited { killed: true, ..Exited::default() });
        }
    };
    let [stdin, stdout, stderr] = &stdio;
    let descriptors = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), procs.as_fd()];
    cell.start(order, descriptors).map_err(ExecError::Launch)?;
    drop((stdio, procs));
    let mut clean = false;
    let ended = async {
        let left = cell.ended().await;
        clean = left.clean;
        Ended { ending: left.ending, wall: left.wall, refused: left.refused, alone: left.wall.is_some() }
    };
    let begun = Begun { ends, pid: cell.keeper(), report: None, status: None, spare: 0 };
    let exited = see_to(agent, both(control), plan, streams, &group, begun, ended).await;
    agent.groups().remove(group).await;
    agent.cells().give_back(cell, clean).await;
    drop(turn);
    exited
}

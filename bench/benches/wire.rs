//! `cargo bench --package hearth-bench`: the guest protocol alone, on this host. `hearth-bench run` measures it too.

use anyhow::Result;
use hearth_bench::{Plan, series::Report, wire};

#[tokio::main]
async fn main() -> Result<()> {
    let mut report = Report::default();
    let plan = Plan { samples: 20, only: None, runtime: String::new() };
    wire::run(&plan, &mut report).await?;
    print!("{}", report.table());
    Ok(())
}

//! The fault run: workers, broker and Redis are killed while jobs with known results are under way, and every job must get
//! exactly its one result. See [`plan`] for what happens when, [`jobs`] for the jobs, [`audit`] for what must hold.

pub mod audit;
pub mod crew;
pub mod jobs;
pub mod plan;
pub mod producer;
pub mod run;

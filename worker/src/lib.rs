//! The service: jobs in, results out. Knows nothing of CIDs or hypervisors.

pub mod admit;
pub mod embedded;
pub mod ledger;
pub mod seams;

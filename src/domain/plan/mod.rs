//! Decisions as pure functions of a snapshot and `now`: what the loops then carry out.

pub mod assign;
pub mod gc;

//! Decisions as pure functions of a snapshot and `now`: what the loops then carry out.

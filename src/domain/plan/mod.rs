//! Decisions: pure functions of a snapshot and `now`. The loops gather the snapshot and carry the decision out.

pub mod assign;
pub mod breaker;
pub mod cache;
pub mod gc;
pub mod gc_cache;
pub mod gc_images;
pub mod gc_volumes;
pub mod images;
pub mod queue;
pub mod room;
pub mod save;
pub mod scale;

//! The one integration binary.

mod onhost;
mod onhost_isolation;

//! The one integration binary.

mod onhost;

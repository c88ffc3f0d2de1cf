//! SSH to a pinned host key, with a deadline on everything.

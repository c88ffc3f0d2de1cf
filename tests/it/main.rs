//! Integration tests.

mod ssh_hostile;

//! What the cache's script does to a folder, and how its words are read.

use super::*;

//! The tables of legal moves in Rust and in the database are the same, and the database refuses every other move.

use sqlx::PgPool;
use std::collections::BTreeSet;
use vm_service::domain::lifecycle::{Move, image_moves, task_moves, vm_moves, volume_moves};

fn words<S: Copy + ToString>(kind: &str, moves: Vec<Move<S>>) -> BTreeSet<(String, String, String)> {
    moves.into_iter().map(|(from, to)| (kind.to_owned(), from.map(|s| s.to_string()).unwrap_or_default(), to.to_string())).collect()
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn rust_and_database_hold_the_same_moves(pool: PgPool) {
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("select kind, from_state, to_state from vms.legal_moves").fetch_all(&pool).await.unwrap();
    let mut expected = words("vm", vm_moves());
    expected.extend(words("task", task_moves()));
    expected.extend(words("volume", volume_moves()));
    expected.extend(words("image", image_moves()));
    assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_move_to_the_same_state_is_never_legal() {
    assert!(vm_moves().iter().all(|(from, to)| *from != Some(*to)));
    assert!(task_moves().iter().all(|(from, to)| *from != Some(*to)));
    assert!(image_moves().iter().all(|(from, to)| *from != Some(*to)));
    assert!(volume_moves().iter().all(|(from, to)| *from != Some(*to)));
}

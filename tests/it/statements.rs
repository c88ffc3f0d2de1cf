//! Every checked statement in `.sqlx` still fits the schema that the migrations make, and every statement says where it is from.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgPool, SqlSafeStr};
use std::path::Path;

fn checked() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()).collect()
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn every_statement_fits_the_schema(pool: PgPool) {
    let statements = checked();
    assert!(statements.len() > 40, "only {} statements were found", statements.len());
    for statement in statements {
        let text = statement["query"].as_str().unwrap().to_owned();
        let described =
            pool.describe(AssertSqlSafe(text.clone()).into_sql_str()).await.unwrap_or_else(|error| panic!("{error}: {text}"));
        let columns: Vec<&str> =
            statement["describe"]["columns"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        let found: Vec<&str> = described.columns().iter().map(sqlx::Column::name).collect();
        assert_eq!(found, columns, "{text}");
    }
}

#[test]
fn every_statement_names_its_function() {
    for statement in checked() {
        let text = statement["query"].as_str().unwrap().to_owned();
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("-- ") && first.contains("::"), "{text}");
    }
}

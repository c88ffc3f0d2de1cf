//! Who calls the API and what that allows.

use serde::{Deserialize, Serialize};

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Role {
    /// Makes tasks and sees its own.
    Dispatcher,
    /// Sees and changes everything, except the secrets of other principals' tasks.
    Operator,
    /// Sees everything, changes nothing.
    Viewer,
}

impl Role {
    /// The word in the database and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }

    /// May make tasks, and end its own.
    pub const fn may_run_tasks(self) -> bool {
        matches!(self, Self::Dispatcher | Self::Operator)
    }

    /// May see VMs, events and the tasks of others.
    pub const fn may_see_everything(self) -> bool {
        matches!(self, Self::Operator | Self::Viewer)
    }

    /// May end VMs and other principals' tasks, and change settings.
    pub const fn may_operate(self) -> bool {
        matches!(self, Self::Operator)
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Dispatcher, Self::Operator, Self::Viewer]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("\"{text}\" is not a role: use dispatcher, operator or viewer"))
    }
}

/// Who calls: tasks belong to the principal, and its tokens may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name that tasks belong to.
    pub principal: String,
    /// What it may do.
    pub role: Role,
    /// It may only make tasks that leave nothing in caches.
    pub untrusted_only: bool,
}

//! Client tokens: one token makes one effect (EC2.md, "Idempotency").

use super::answer::{Answer, Refusal, Stop};
use super::state::First;
use super::wire::{Call, Wire};

impl Wire {
    /// What this token first did, if its parameters were the same.
    ///
    /// # Errors
    /// `InvalidParameterValue` for a token that is none, `IdempotentParameterMismatch` for other parameters.
    pub(super) fn first(&self, call: &Call, name: &str) -> Result<Option<First>, Stop> {
        let Some(token) = call.params.get(name) else { return Ok(None) };
        if !token.is_ascii() || token.len() > 64 {
            return Err(Refusal::rule("InvalidParameterValue", "Client token exceeds 64 ASCII characters").into());
        }
        let state = self.state.lock().unwrap();
        let Some(first) = state.tokens.get(&(call.action.clone(), token.to_owned())) else { return Ok(None) };
        if first.params == call.params {
            return Ok(Some(first.clone()));
        }
        // EBS direct has its own name for it.
        let code = if call.action == "StartSnapshot" { "ConflictException" } else { "IdempotentParameterMismatch" };
        Err(Refusal::rule(code, "The request uses the same client token as a previous, but non-identical request").into())
    }

    /// Notes what a call with this token did.
    pub(super) fn remember(&self, call: &Call, name: &str, ids: Vec<String>, answer: &Answer) {
        if let Some(token) = call.params.get(name) {
            let first = First { params: call.params.clone(), ids, answer: answer.clone() };
            self.state.lock().unwrap().tokens.insert((call.action.clone(), token.to_owned()), first);
        }
    }
}

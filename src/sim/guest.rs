//! The simulated guest: answers to the keys it was given, and changes them at first contact.

use super::{Fault, GuestKeys, Sim};
use crate::domain::identity::{Bootstrap, Identity};
use crate::guest::{Endpoint, Guest, GuestError, Personality};
use crate::provider::MachineState;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::net::SocketAddr;
use std::time::Duration;

#[async_trait]
impl Guest for Sim {
    fn user_data(&self, bootstrap: &Bootstrap, _silent_for: Duration) -> String {
        serde_json::json!([bootstrap.host_public, bootstrap.login_public]).to_string()
    }

    async fn personalise(
        &self,
        _at: &Endpoint,
        bootstrap: &Bootstrap,
        identity: &Identity,
        _personality: &Personality,
        deadline: Duration,
    ) -> Result<(), GuestError> {
        let mut state = self.lock();
        state.count("personalise");
        if state.strikes(&Fault::NeverAnswers) {
            return Err(GuestError::NotReachable(deadline));
        }
        if state.strikes(&Fault::WrongHostKey) {
            return Err(GuestError::WrongHostKey);
        }
        let (first, own) = (GuestKeys::bootstrap(bootstrap), GuestKeys::identity(identity));
        let met = state.machines.values_mut().find(|m| m.state == MachineState::Running && (m.keys == first || m.keys == own));
        match met {
            Some(machine) => {
                machine.keys = own;
                Ok(())
            }
            None => Err(GuestError::NotReachable(deadline)),
        }
    }

    async fn authorise(
        &self,
        _ssh: SocketAddr,
        identity: &Identity,
        public_keys: &[String],
        deadline: Duration,
    ) -> Result<(), GuestError> {
        let mut state = self.lock();
        state.count("authorise");
        if state.strikes(&Fault::RefusesKeys) {
            return Err(GuestError::NotReachable(deadline));
        }
        match state.machines.values_mut().find(|m| m.keys.host == identity.host_public) {
            Some(machine) => {
                machine.keys.logins.extend(public_keys.iter().cloned());
                Ok(())
            }
            None => Err(GuestError::NotReachable(deadline)),
        }
    }

    async fn set_end(
        &self,
        _ssh: SocketAddr,
        identity: &Identity,
        _end_at: DateTime<Utc>,
        deadline: Duration,
    ) -> Result<(), GuestError> {
        let mut state = self.lock();
        state.count("set_end");
        match state.machines.values().find(|m| m.keys.host == identity.host_public) {
            Some(_) => Ok(()),
            None => Err(GuestError::NotReachable(deadline)),
        }
    }
}

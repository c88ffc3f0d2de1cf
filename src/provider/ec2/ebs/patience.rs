//! One call of EBS direct, until it is answered. A throttled call waits and is made again; one whose answer was lost is made again too,
//! which is safe: the calls that read change nothing, and those that write say the same thing twice.

use crate::provider::ProviderError;
use crate::provider::ec2::Ec2;
use crate::provider::ec2::refusal::{Kind, Refusal};
use aws_sdk_ebs::error::{ProvideErrorMetadata, SdkError};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Between two looks at a bucket that is empty or rests: it has its own back-off, this only polls it.
const POLL: Duration = Duration::from_millis(50);
/// So long one call may be throttled before it is given up: ten times the longest rest.
const THROTTLED_FOR: Duration = Duration::from_secs(320);
/// So often one call may have no answer.
const TRIES: u32 = 8;
/// After the first of them; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

impl Ec2 {
    /// Makes this call, as often as it takes.
    ///
    /// # Errors
    /// `Throttled` and `Transient` after minutes, the others at once.
    pub(super) async fn patiently<T, E, R, F>(&self, what: &str, mut call: impl FnMut() -> F) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<T, SdkError<E, R>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let (began, mut unanswered) = (Instant::now(), 0);
        loop {
            let refusal = match self.budget.blocks.call(call()).await {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            let pause = match refusal {
                Refusal { kind: Kind::Throttled, .. } if began.elapsed() < THROTTLED_FOR => POLL,
                Refusal { kind: Kind::Unclear, .. } if unanswered < TRIES => {
                    unanswered += 1;
                    FIRST_PAUSE * 2_u32.pow(unanswered - 1)
                }
                refusal => return Err(refusal.into_error(what)),
            };
            sleep(pause).await;
        }
    }
}

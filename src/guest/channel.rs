//! What is said to a machine that waits for its identity (`ami/onhost/wait`), beside its network and before any server of it answers.
//!
//! Sent: `NAME BYTES SEED\n` and a script of so many bytes; answered: `NAME STATUS BYTES\n` and what it said. The seed is for the machine's random
//! generator: a machine that goes on from a snapshot has drawn the same numbers as every other one that does.

use super::linux::{Failed, MOST_OUTPUT};
use crate::domain::secret::Secret;
use crate::ssh::{SshError, printable};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use std::fmt::Write;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;
use zeroize::Zeroizing;

/// Bytes.
const SEED: usize = 32;
/// Of the answer's first line.
const MOST_LINE: u64 = 80;

/// Runs a script as root in the machine, and answers what it said.
pub(super) async fn run(channel: UnixStream, script: &Secret, until: Instant) -> Result<Vec<u8>, Failed> {
    let said = timeout_at(until, exchange(channel, script)).await.map_err(|_| SshError::NotReachable)?;
    // Whoever does not speak as agreed is not there yet, or goes.
    let (status, said) = said.map_err(|error| {
        tracing::debug!(%error, "a machine does not answer beside its network");
        SshError::NotReachable
    })?;
    if status == 0 { Ok(said) } else { Err(Failed::Command(format!("exit status {status}: {}", printable(&said)))) }
}

async fn exchange(channel: UnixStream, script: &Secret) -> std::io::Result<(u32, Vec<u8>)> {
    let name = Uuid::new_v4().simple().to_string();
    let script = script.expose();
    let mut seed = Zeroizing::new([0; SEED]);
    SystemRandom::new().fill(seed.as_mut()).map_err(std::io::Error::other)?;
    let mut head = Zeroizing::new(format!("{name} {} ", script.len()));
    for byte in seed.iter() {
        write!(head, "{byte:02x}").map_err(std::io::Error::other)?;
    }
    head.push('\n');
    let mut channel = BufReader::new(channel);
    channel.write_all(head.as_bytes()).await?;
    channel.write_all(script.as_bytes()).await?;
    loop {
        let mut line = String::new();
        (&mut channel).take(MOST_LINE).read_line(&mut line).await?;
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        let answer = match words[..] {
            [to, status, bytes] => status.parse().ok().zip(bytes.parse::<usize>().ok()).map(|(status, bytes)| (to, status, bytes)),
            _ => None,
        };
        let Some((to, status, bytes)) = answer.filter(|(_, _, bytes)| *bytes <= MOST_OUTPUT) else {
            return Err(std::io::Error::other(format!("it says {:?}", printable(line.as_bytes()))));
        };
        let mut said = vec![0; bytes];
        channel.read_exact(&mut said).await?;
        // Answers to earlier callers come first.
        if to == name {
            return Ok((status, said));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A machine that takes a script and answers this.
    async fn answered(answer: &'static str) -> (Result<Vec<u8>, Failed>, String) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let machine = tokio::spawn(async move {
            let mut stream = BufReader::new(theirs);
            let mut head = String::new();
            stream.read_line(&mut head).await.unwrap();
            let words: Vec<&str> = head.split(' ').collect();
            let (name, bytes) = (words[0].to_owned(), words[1].parse().unwrap());
            let mut script: Vec<u8> = vec![0; bytes];
            stream.read_exact(&mut script).await.unwrap();
            stream.write_all(answer.replace("ME", &name).as_bytes()).await.unwrap();
            format!("{head}{}", String::from_utf8(script).unwrap())
        });
        let said = run(ours, &Secret::new("echo it's me\n"), Instant::now() + Duration::from_secs(5)).await;
        (said, machine.await.unwrap())
    }

    #[tokio::test]
    async fn the_whole_script_arrives_with_a_seed_of_its_own() {
        let (said, got) = answered("other 0 0\nother 3 4\nlateME 0 5\nfine\n").await;
        assert_eq!(said.ok().unwrap(), b"fine\n");
        let (head, script) = got.split_once('\n').unwrap();
        assert_eq!(script, "echo it's me\n");
        let (_, other) = answered("ME 0 0\n").await;
        let seed = head.rsplit_once(' ').unwrap().1;
        assert!(seed.len() == 2 * SEED && seed.bytes().all(|byte| byte.is_ascii_hexdigit()) && !other.contains(seed), "{head}");
    }

    #[tokio::test]
    async fn what_failed_is_said_and_nonsense_is_nobody() {
        let (said, _) = answered("ME 3 8\nno space").await;
        assert!(matches!(said, Err(Failed::Command(text)) if text.contains("status 3") && text.contains("no space")));
        for nonsense in
            ["", "0\n", "x 1\na", "0 9999999\n", "0 5\nfin", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
        {
            let (said, _) = answered(nonsense).await;
            assert!(matches!(said, Err(Failed::Ssh(SshError::NotReachable))), "{nonsense}");
        }
    }
}

//! QMP as far as disks need it; a VM of the on-host provider talks to one client at a time, so each talk is short.

use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;

/// For a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(5);

/// A talk with the QEMU of one machine.
pub(super) struct Qmp(Lines<BufReader<UnixStream>>);

impl Qmp {
    /// Connects to the QEMU of a machine's folder.
    pub(super) async fn connect(folder: &Path) -> io::Result<Self> {
        let talk = async {
            let stream = UnixStream::connect(folder.join("qmp.sock")).await?;
            let mut lines = BufReader::new(stream).lines();
            lines.next_line().await?;
            let mut qmp = Self(lines);
            qmp.ask("qmp_capabilities", json!({})).await.map_err(io::Error::other)?;
            Ok(qmp)
        };
        tokio::time::timeout(DEADLINE, talk).await?
    }

    /// Gives a command; QEMU's answer, or its error.
    pub(super) async fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        let answer = async {
            self.0.get_mut().write_all(line.as_bytes()).await?;
            loop {
                let line = self.0.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                let said: Value = serde_json::from_str(&line)?;
                // Events come between.
                if said.get("event").is_none() {
                    return io::Result::Ok(said);
                }
            }
        };
        let answer = tokio::time::timeout(DEADLINE, answer).await.map_err(|error| format!("{command}: {error}"))?;
        let answer = answer.map_err(|error| format!("{command}: {error}"))?;
        answer.get("return").cloned().ok_or_else(|| format!("{command}: {answer}"))
    }
}

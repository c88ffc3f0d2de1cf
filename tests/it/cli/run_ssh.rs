//! `run --executor machine`: against an SSH server in this process that hands commands to a local shell, as sshd does.

use super::api::{Api, TASK, World, docker};
use super::{io, run_args, until};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::{LineEnding, private::Ed25519Keypair};
use russh::server::{Auth, ChannelOpenHandle, Handle, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, Sig};
use std::future::pending;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use vm_service::cli::{Interrupt, Pace, command_line, run};
use vm_service::domain::api::{Connection, SshConnection};

/// A VM: its way in, and the commands it was asked to run.
struct Vm {
    connection: Connection,
    commands: Arc<Mutex<Vec<String>>>,
}

fn key() -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&rand::random()))
}

fn public(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

async fn vm() -> Vm {
    let (host, login) = (key(), key());
    let host_key = public(&host);
    let config = Arc::new(russh::server::Config { keys: vec![host], ..Default::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let commands = Arc::new(Mutex::new(Vec::new()));
    let sshd = Sshd { login: public(&login), commands: Arc::clone(&commands), channel: None };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let running = russh::server::run_stream(Arc::clone(&config), stream, sshd.clone()).await;
            tokio::spawn(async move {
                if let Ok(session) = running {
                    session.await.ok();
                }
            });
        }
    });
    let private_key = login.to_openssh(LineEnding::LF).unwrap().to_string();
    let ssh = SshConnection { host: "127.0.0.1".to_owned(), port, user: "circleci".to_owned(), private_key, host_key };
    Vm { connection: Connection { ssh, docker: None }, commands }
}

struct Sshd {
    login: String,
    commands: Arc<Mutex<Vec<String>>>,
    channel: Option<Channel<Msg>>,
}

impl Clone for Sshd {
    fn clone(&self) -> Self {
        Self { login: self.login.clone(), commands: Arc::clone(&self.commands), channel: None }
    }
}

impl Handler for Sshd {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let offered = key.public_key.to_openssh().unwrap();
        let same = offered.split(' ').nth(1) == self.login.split(' ').nth(1);
        Ok(if user == "circleci" && same { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channel = Some(channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, command: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        let command = String::from_utf8(command.to_vec()).unwrap();
        self.commands.lock().unwrap().push(command.clone());
        session.channel_success(id)?;
        tokio::spawn(shell(command, self.channel.take().unwrap(), session.handle()));
        Ok(())
    }
}

/// What sshd does with a command.
async fn shell(command: String, channel: Channel<Msg>, session: Handle) {
    let id = channel.id();
    let mut shell = tokio::process::Command::new("/bin/sh");
    let shell = shell.args(["-c", &command]).env("MARK", "of the VM").kill_on_drop(true);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut out, mut err) = (channel.make_writer(), channel.make_writer_ext(Some(1)));
    let (mut from_out, mut from_err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let mut to_in = child.stdin.take();
    let (mut read, write) = channel.split();
    let input = async {
        while let Some(message) = read.wait().await {
            match (message, to_in.as_mut()) {
                (russh::ChannelMsg::Data { data }, Some(to)) => put(to, &data).await,
                (russh::ChannelMsg::Eof, _) => to_in = None,
                (russh::ChannelMsg::Close, _) => break,
                _ => {}
            }
        }
    };
    let output = async {
        let (a, b) = tokio::join!(tokio::io::copy(&mut from_out, &mut out), tokio::io::copy(&mut from_err, &mut err));
        a.and(b).ok();
        child.wait().await.unwrap()
    };
    tokio::pin!(output);
    let status = tokio::select! {
        status = &mut output => status,
        // The client went away, and so does its command.
        () = input => return,
    };
    match status.code() {
        Some(code) => write.exit_status(u32::try_from(code).unwrap()).await.unwrap(),
        None => {
            assert_eq!(status.signal(), Some(15));
            session.exit_signal_request(id, Sig::TERM, false, String::new(), String::new()).await.unwrap();
        }
    }
    write.close().await.ok();
}

async fn put(to: &mut (impl AsyncWrite + Unpin), data: &[u8]) {
    // A command that reads no input has closed it.
    if to.write_all(data).await.is_ok() {
        to.flush().await.ok();
    }
}

async fn execute(connection: Connection, stdin: Option<&'static [u8]>, words: &[&str]) -> (u8, String, String, Api) {
    let api = Api::start(World { connection: Some(connection), ..World::default() }).await;
    let args = run_args(&api.url, &[&["--"], words].concat());
    let client = args.client(&Default::default()).unwrap();
    let (mut io, out, err) = io(stdin);
    let code = run::run(&args, &client, TASK, &mut io, pending(), Pace::default()).await;
    (code, out.text(), err.text(), api)
}

#[tokio::test]
async fn the_command_is_taken_word_by_word_its_outputs_are_apart_and_its_exit_code_is_ours() {
    let vm = vm().await;
    let words = ["sh", "-c", "echo \"$MARK: $1|$2|$3\"; echo bad >&2; cat; exit 3", "it's", "a  b", "", "$HOME;*'\"\n"];
    let (code, out, err, api) = execute(vm.connection, Some(b"the input"), &words).await;
    assert_eq!((code, err.as_str()), (3, "bad\n"));
    assert_eq!(out, "of the VM: a  b||$HOME;*'\"\n\nthe input");
    assert_eq!(api.world().bodies[0]["executor"], "machine");
    assert_eq!(api.world().calls, [format!("PUT /api/v1/tasks/{TASK}"), format!("DELETE /api/v1/tasks/{TASK}")]);
}

#[tokio::test]
async fn much_output_and_a_signal_in_the_vm_arrive_whole() {
    let vm = vm().await;
    let (code, out, err, _) =
        execute(vm.connection, None, &["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; kill -TERM $$"]).await;
    assert_eq!((code, out.len(), err.as_str()), (143, 3_000_000, ""));
}

#[tokio::test]
async fn another_host_key_gets_nothing_and_the_task_is_released() {
    let mut vm = vm().await;
    vm.connection.ssh.host_key = public(&key());
    let (code, out, err, api) = execute(vm.connection, None, &["echo", "secret"]).await;
    assert_eq!((code, out.as_str()), (125, ""));
    assert!(err.contains("did not prove the pinned host key"), "{err}");
    assert_eq!(*vm.commands.lock().unwrap(), Vec::<String>::new());
    assert_eq!(api.count("DELETE"), 1);
}

#[tokio::test]
async fn a_vm_that_does_not_let_us_in_is_the_services_failure() {
    let mut vm = vm().await;
    vm.connection.ssh.private_key = key().to_openssh(LineEnding::LF).unwrap().to_string();
    let (code, _, err, api) = execute(vm.connection, None, &["true"]).await;
    assert_eq!((code, err.contains("refused the login")), (125, true), "{err}");
    assert_eq!(api.count("DELETE"), 1);
}

#[tokio::test]
async fn ctrl_c_ends_the_command_in_the_vm_and_releases_the_task() {
    let vm = vm().await;
    let api = Api::start(World { connection: Some(vm.connection), ..World::default() }).await;
    let args = run_args(&api.url, &["--", "sleep", "60"]);
    let client = args.client(&Default::default()).unwrap();
    let (mut io, _, _) = io(None);
    let begun = async {
        until("the command runs", || !vm.commands.lock().unwrap().is_empty()).await;
        Interrupt::Interrupted
    };
    assert_eq!(run::run(&args, &client, TASK, &mut io, begun, Pace::default()).await, 130);
    assert_eq!(api.count("DELETE"), 1);
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_command_as_sigpipe_does() {
    let vm = vm().await;
    let api = Api::start(World { connection: Some(vm.connection), ..World::default() }).await;
    let args = run_args(&api.url, &["--", "yes"]);
    let client = args.client(&Default::default()).unwrap();
    let (mut io, _, err) = io(None);
    let (to, mut from) = tokio::io::duplex(100);
    io.out = Box::new(to);
    let reader = async move {
        tokio::io::AsyncReadExt::read_exact(&mut from, &mut [0; 50]).await.unwrap();
    };
    let (code, ()) = tokio::join!(run::run(&args, &client, TASK, &mut io, pending(), Pace::default()), reader);
    assert_eq!((code, err.text().as_str()), (141, ""));
    assert_eq!(api.count("DELETE"), 1);
}

#[tokio::test]
async fn a_vm_without_an_engine_is_not_used_for_docker() {
    let api = Api::start(World { connection: Some(Connection { docker: None, ..docker() }), ..World::default() }).await;
    let args = run_args(&api.url, &["--executor", "remote_docker", "--", "touch", "/tmp/never"]);
    let client = args.client(&Default::default()).unwrap();
    let (mut io, _, err) = io(None);
    assert_eq!(run::run(&args, &client, TASK, &mut io, pending(), Pace::default()).await, 125);
    assert_eq!(err.text(), "vm-service: The service gave a VM without a Docker engine.\n");
}

#[test]
fn words_survive_a_shell() {
    let words = ["sh", "-c", "echo $HOME; exit 3", "it's"].map(str::to_owned);
    assert_eq!(command_line(&words), r"exec 'sh' '-c' 'echo $HOME; exit 3' 'it'\''s'");
}

/// The system's ssh writes to our own outputs: what is looked at is its exit code and what the VM was asked to do.
#[tokio::test]
async fn an_operator_enters_a_vm_with_the_systems_ssh_and_its_pinned_key() {
    let vm = vm().await;
    let id = super::api::vm(7).id;
    let enter = async |connection: Connection, words: &[&str]| {
        let world = World { connection: Some(connection), ..World::default() };
        let api = Api::start(world).await;
        let (io, _, err) = io(None);
        let command = super::parse(&api.url, &[&["vms", "ssh", &id.to_string()], words].concat());
        (vm_service::cli::run(command, &Default::default(), io).await, err.text())
    };
    assert_eq!(enter(vm.connection.clone(), &["--", "sh", "-c", "exit 7", "it's"]).await, (7, String::new()));
    assert_eq!(*vm.commands.lock().unwrap(), [command_line(&["sh", "-c", "exit 7", "it's"].map(str::to_owned))]);
    let mut other = vm.connection.clone();
    other.ssh.host_key = public(&key());
    assert_eq!(enter(other, &["--", "echo", "secret"]).await.0, 255);
    assert_eq!(vm.commands.lock().unwrap().len(), 1, "another host key gets nothing");
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().filter_map(Result::ok);
    let left: Vec<_> = left
        .map(|entry| entry.file_name().into_string().unwrap_or_default())
        .filter(|name| name.starts_with("vm-service-ssh-"))
        .collect();
    assert_eq!(left, [] as [&str; 0], "the key is gone");
}

//! Servers that lie, stall and flood: each costs its deadline at most, bounded memory, and no secret.
//!
//! Real sockets and real time: deadlines are short, and what is asserted are levels (an end was reached, a count stays low).

mod server;

use server::{Act, HOST, LOGIN, Seen, host, listen, serve, target};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use vm_service::ssh::{ExitStatus, Session, SshError, wait_for_server};

/// A deadline that a test waits for.
const SHORT: Duration = Duration::from_millis(600);
/// A deadline that no test may come near: it stands for "at once, on a busy machine".
const LONG: Duration = Duration::from_secs(20);
/// How late the end of a deadline may be on a busy machine.
const LATE: Duration = Duration::from_secs(3);

fn within(length: Duration) -> Instant {
    Instant::now() + length
}

async fn connected(addr: SocketAddr) -> Session {
    Session::connect(&target(addr, HOST, LOGIN), within(LONG)).await.unwrap()
}

/// Polls until `is` holds: for levels that a server's own task reaches.
async fn until(is: impl Fn() -> bool) {
    let end = within(LONG);
    while !is() {
        assert!(Instant::now() < end, "never came to be");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_right_server_runs_commands_and_says_how_they_ended() {
    for (act, status) in [
        (Act::Succeed, ExitStatus::Code(0)),
        (Act::Fail, ExitStatus::Code(7)),
        (Act::Signal, ExitStatus::Signal("KILL".to_owned())),
    ] {
        let (addr, seen) = host(act).await;
        let session = connected(addr).await;
        let output = session.exec("anything", b"input", 1024, within(LONG)).await.unwrap();
        assert_eq!(output.status, status);
        if act == Act::Succeed {
            assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out"[..], &b"err"[..]));
        }
        assert!(seen.logins.load(Ordering::SeqCst) > 0);
    }
}

#[tokio::test]
async fn another_host_key_is_refused_and_the_server_sees_no_login() {
    let (addr, seen) = host(Act::Succeed).await;
    let error = Session::connect(&target(addr, HOST + 10, LOGIN), within(LONG)).await.unwrap_err();
    assert!(matches!(error, SshError::WrongHostKey), "{error:?}");
    // A later, honest connection is served after the first: nothing of the first is still on its way.
    let before = seen.logins.load(Ordering::SeqCst);
    assert_eq!(before, 0, "the login was shown to a server that had not proven its key");
    drop(connected(addr).await);
    let honest = seen.logins.load(Ordering::SeqCst);
    let (other, alone) = host(Act::Succeed).await;
    drop(connected(other).await);
    assert_eq!(honest, alone.logins.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_login_that_is_not_welcome_is_refused_at_once() {
    let (addr, _) = host(Act::Succeed).await;
    let error = Session::connect_when_up(&target(addr, HOST, LOGIN + 10), within(LONG)).await.unwrap_err();
    assert!(matches!(error, SshError::LoginRefused), "{error:?}");
}

#[tokio::test]
async fn a_target_without_ed25519_keys_is_the_callers_mistake() {
    let mut bad = target("127.0.0.1:9".parse().unwrap(), HOST, LOGIN);
    bad.host_key = "ssh-rsa AAAA".to_owned();
    assert!(matches!(Session::connect(&bad, within(LONG)).await, Err(SshError::InvalidKey("host key"))));
}

#[tokio::test]
async fn connections_that_end_before_the_banner_mean_not_yet() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let addr = listen(move |stream| {
        let nth = count.fetch_add(1, Ordering::SeqCst);
        async move {
            if nth >= 3 {
                serve(stream, Act::Succeed, Arc::default()).await;
            }
        }
    })
    .await;
    let session = Session::connect_when_up(&target(addr, HOST, LOGIN), within(LONG)).await.unwrap();
    assert!(session.exec("anything", b"", 1024, within(LONG)).await.unwrap().status.success());
    assert_eq!(accepted.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn nobody_there_is_not_reachable_at_the_deadline_and_at_once_for_a_single_try() {
    let addr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let began = Instant::now();
    assert!(matches!(Session::connect(&target(addr, HOST, LOGIN), within(LONG)).await, Err(SshError::NotReachable)));
    assert!(began.elapsed() < LATE);
    assert!(matches!(wait_for_server(addr, within(SHORT)).await, Err(SshError::NotReachable)));
    assert!(began.elapsed() < SHORT + LATE);
}

#[tokio::test]
async fn a_slow_or_silent_banner_costs_the_deadline() {
    let addr = listen(|mut stream| async move {
        for byte in b"SSH-2.0-slow".iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let silent = listen(|stream| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    for addr in [addr, silent] {
        let began = Instant::now();
        let error = Session::connect_when_up(&target(addr, HOST, LOGIN), within(SHORT)).await.unwrap_err();
        assert!(matches!(error, SshError::NotReachable), "{error:?}");
        assert!((SHORT..SHORT + LATE).contains(&began.elapsed()));
    }
}

/// Sends `first`, then `again` for ever, and counts what the client took.
async fn endless(first: &'static [u8], again: &'static [u8]) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let count = Arc::clone(&seen);
    let addr = listen(move |mut stream| {
        let seen = Arc::clone(&count);
        async move {
            if stream.write_all(first).await.is_err() {
                return;
            }
            while stream.write_all(again).await.is_ok() {
                seen.sent.fetch_add(again.len() as u64, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
            seen.received.store(1, Ordering::SeqCst);
        }
    })
    .await;
    (addr, seen)
}

#[tokio::test]
async fn endless_banners_are_given_up_after_a_few_kilobytes() {
    let endless_line: &[u8] = &[b'x'; 512];
    for (first, again) in
        [(&b""[..], &b"not yet\r\n"[..]), (b"", endless_line), (b"SSH-2.0-", endless_line), (b"", b"SSH-1.5-old\r\n")]
    {
        let (addr, seen) = endless(first, again).await;
        let began = Instant::now();
        let error = Session::connect_when_up(&target(addr, HOST, LOGIN), within(LONG)).await.unwrap_err();
        assert!(matches!(error, SshError::Misbehaved(_)), "{error:?}");
        assert!(began.elapsed() < LATE);
        until(|| seen.received.load(Ordering::SeqCst) == 1).await;
    }
}

#[tokio::test]
async fn packets_of_any_size_that_is_announced_are_refused_before_they_are_kept() {
    let (addr, seen) = endless(b"SSH-2.0-giant\r\n\xff\xff\xff\xff", &[0; 4096]).await;
    let began = Instant::now();
    let error = Session::connect(&target(addr, HOST, LOGIN), within(LONG)).await.unwrap_err();
    assert!(matches!(error, SshError::Misbehaved(_)), "{error:?}");
    assert!(began.elapsed() < LATE);
    until(|| seen.received.load(Ordering::SeqCst) == 1).await;
}

/// A key exchange proposal that our client accepts (RFC 4253 §7.1), as one packet.
fn proposal() -> Vec<u8> {
    let mut payload = vec![20];
    payload.extend([7; 16]);
    let cipher = "chacha20-poly1305@openssh.com";
    let lists = ["curve25519-sha256", "ssh-ed25519", cipher, cipher, "hmac-sha2-256", "hmac-sha2-256", "none", "none", "", ""];
    for list in lists {
        payload.extend(u32::try_from(list.len()).unwrap().to_be_bytes());
        payload.extend(list.as_bytes());
    }
    payload.extend([0; 5]);
    packet(&payload)
}

/// An unencrypted packet (RFC 4253 §6).
fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 4 + (8 - (5 + payload.len() + 4) % 8) % 8;
    let length = u32::try_from(1 + payload.len() + padding).unwrap();
    let mut packet = length.to_be_bytes().to_vec();
    packet.push(u8::try_from(padding).unwrap());
    packet.extend(payload);
    packet.extend(vec![0; padding]);
    packet
}

#[tokio::test]
async fn a_key_exchange_that_never_ends_costs_the_deadline_and_leaves_no_connection() {
    let ignore = packet(&[2, 0, 0, 0, 0]);
    for (proposes, chatters) in [(false, false), (true, false), (true, true)] {
        let closed = Arc::new(Seen::default());
        let (seen, ignore) = (Arc::clone(&closed), ignore.clone());
        let addr = listen(move |mut stream| {
            let (seen, ignore) = (Arc::clone(&seen), ignore.clone());
            async move {
                stream.write_all(b"SSH-2.0-never\r\n").await.unwrap();
                if proposes {
                    stream.write_all(&proposal()).await.unwrap();
                }
                let (mut from, mut to) = stream.split();
                let chatter = async {
                    while chatters && to.write_all(&ignore).await.is_ok() {
                        tokio::task::yield_now().await;
                    }
                    std::future::pending::<()>().await;
                };
                let mut some = [0; 4096];
                let listen = async {
                    while let Ok(count @ 1..) = from.read(&mut some).await {
                        seen.received.fetch_add(count as u64, Ordering::SeqCst);
                    }
                };
                tokio::select! { () = chatter => {}, () = listen => {} }
                seen.logins.store(1, Ordering::SeqCst);
            }
        })
        .await;
        let began = Instant::now();
        let error = Session::connect(&target(addr, HOST, LOGIN), within(SHORT)).await.unwrap_err();
        assert!(matches!(error, SshError::TimedOut), "{proposes} {chatters}: {error:?}");
        assert!((SHORT..SHORT + LATE).contains(&began.elapsed()));
        // The server is told: nothing of ours goes on in the background.
        until(|| closed.logins.load(Ordering::SeqCst) == 1).await;
        assert!(closed.received.load(Ordering::SeqCst) > 0);
    }
}

#[tokio::test]
async fn output_beyond_the_cap_ends_the_command_at_once() {
    let (addr, _) = host(Act::Flood).await;
    let session = connected(addr).await;
    let began = Instant::now();
    let error = session.exec("anything", b"", 64 * 1024, within(LONG)).await.unwrap_err();
    assert!(matches!(error, SshError::Misbehaved(_)), "{error:?}");
    assert!(began.elapsed() < LATE);
}

/// Takes nothing, ever.
struct Stuck;

impl AsyncWrite for Stuck {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn a_flood_waits_for_a_slow_reader_and_does_not_pile_up_here() {
    let (addr, seen) = host(Act::Flood).await;
    let session = connected(addr).await;
    let running = session.stream("anything", None::<tokio::io::Empty>, Stuck, Stuck);
    assert!(tokio::time::timeout(2 * SHORT, running).await.is_err());
    let sent = seen.sent.load(Ordering::SeqCst);
    assert!((1..=4 << 20).contains(&sent), "{sent} bytes were taken for a reader that took none");
    // And the end of the session is the end of the flood.
    drop(session);
    let before = seen.sent.load(Ordering::SeqCst);
    assert!(before <= 4 << 20);
}

#[tokio::test]
async fn endless_input_stops_when_the_command_has_ended() {
    let (addr, _) = host(Act::Fail).await;
    let session = connected(addr).await;
    let running = session.stream("anything", Some(tokio::io::repeat(b'x')), tokio::io::sink(), tokio::io::sink());
    let status = tokio::time::timeout(LONG, running).await.unwrap().unwrap();
    assert_eq!(status, ExitStatus::Code(7));
}

#[tokio::test]
async fn refusals_and_ends_without_a_status_are_errors_at_once() {
    for act in [Act::CloseWithoutStatus, Act::RefuseCommand, Act::RefuseChannel, Act::HangUp] {
        let (addr, _) = host(act).await;
        let session = connected(addr).await;
        let began = Instant::now();
        let error = session.exec("anything", b"", 1024, within(LONG)).await.unwrap_err();
        match act {
            Act::HangUp => assert!(matches!(error, SshError::Lost(_)), "{error:?}"),
            _ => assert!(matches!(error, SshError::Misbehaved(_)), "{error:?}"),
        }
        assert!(began.elapsed() < LATE);
    }
}

#[tokio::test]
async fn commands_that_never_end_and_channels_that_never_open_cost_the_deadline() {
    for act in [Act::Hang, Act::NeverOpenChannel] {
        let (addr, _) = host(act).await;
        let session = connected(addr).await;
        let began = Instant::now();
        let error = session.exec("anything", b"", 1024, within(SHORT)).await.unwrap_err();
        assert!(matches!(error, SshError::TimedOut), "{error:?}");
        assert!((SHORT..SHORT + LATE).contains(&began.elapsed()));
    }
}

/// A port forwarder may complete its connection to the machine only when we have something to say: passt of 2023 does so.
#[tokio::test]
async fn a_server_that_waits_for_us_to_speak_is_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut said = [0; 8];
        tcp.read_exact(&mut said).await.unwrap();
        tcp.write_all(b"SSH-2.0-patient\r\n").await.unwrap();
        said
    });
    wait_for_server(addr, within(LONG)).await.unwrap();
    assert_eq!(&server.await.unwrap(), b"SSH-2.0-");
}

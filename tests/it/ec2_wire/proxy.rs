//! `Cloud`: an EC2 and an EBS direct on a loopback port, moto behind them; a test that overlooks a violation fails.

use super::answer::Stop;
use super::backing::Backing;
use super::clock::Clock;
use super::faults::Fault;
use super::ground::{self, Ground, Subnet};
use super::journal::{Journal, Request};
use super::model;
use super::moto::{CANONICAL_IMAGE, Moto, OWN_IMAGE};
use super::params::Params;
use super::rules::Rules;
use super::truth::{Truth, VolumeTruth};
use super::wire::{REGION, Raw, Wire};
use axum::body::{Body, to_bytes};
use axum::http::Request as HttpRequest;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use vm_service::provider::ec2::policy::{self, Features};

/// A block of EBS direct and its headers fit well.
const LARGEST_BODY: usize = 4 << 20;

/// A strict cloud of one test; it ends with this value.
pub(crate) struct Cloud {
    wire: Arc<Wire>,
    endpoint: String,
    ground: Ground,
    server: AbortHandle,
    by_hand: bool,
    _moto: Moto,
}

impl Cloud {
    /// Starts moto and the proxy, and makes a network, a security group and images. At its end every right that the calls needed must be
    /// one that `vm-service iam-policy` gives when all features are on.
    pub(crate) async fn start(rules: Rules) -> Self {
        Self::build(None, false, rules).await
    }

    /// The same, with something behind the instances.
    pub(crate) async fn over(backing: Arc<dyn Backing>, rules: Rules) -> Self {
        Self::build(Some(backing), false, rules).await
    }

    /// As [`Cloud::start`], for tests that call by themselves, also what the service never does.
    pub(super) async fn by_hand(rules: Rules) -> Self {
        Self::build(None, true, rules).await
    }

    /// The same with something behind the instances.
    pub(super) async fn by_hand_over(backing: Arc<dyn Backing>, rules: Rules) -> Self {
        Self::build(Some(backing), true, rules).await
    }

    async fn build(backing: Option<Arc<dyn Backing>>, by_hand: bool, rules: Rules) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let models = tokio::task::spawn_blocking(|| (model::ec2(), model::ebs()));
        let moto = Moto::start(&http).await;
        let ground = ground::prepare(&http, &moto.url).await;
        models.await.unwrap();
        let wire = Arc::new(Wire {
            clock: Clock::at(rules.speed),
            rules,
            journal: Journal::new(),
            faults: Default::default(),
            state: Default::default(),
            held: Default::default(),
            violations: Default::default(),
            actions: Default::default(),
            profiles: Default::default(),
            budgets: Default::default(),
            turn: Default::default(),
            backing,
            zones: ground.subnets.iter().map(|subnet| (subnet.id.clone(), subnet.zone.clone())).collect(),
            http,
            moto: moto.url.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(listen(listener, wire.clone())).abort_handle();
        Self { wire, endpoint, ground, server, by_hand, _moto: moto }
    }

    /// For both services.
    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    pub(crate) fn region(&self) -> &'static str {
        REGION
    }

    /// One in each of two zones.
    pub(crate) fn subnets(&self) -> Vec<Subnet> {
        self.ground.subnets.clone()
    }

    /// Lets 22 and 2376 in.
    pub(crate) fn security_group(&self) -> String {
        self.ground.security_group.clone()
    }

    /// An image of our own, `x86_64`, with the root device `/dev/sda1`.
    pub(crate) fn image(&self) -> String {
        OWN_IMAGE.to_owned()
    }

    /// The newer of two images of Canonical.
    pub(crate) fn canonical_image(&self) -> String {
        CANONICAL_IMAGE.to_owned()
    }

    /// Every request so far.
    pub(crate) fn journal(&self) -> Vec<Request> {
        self.wire.journal.requests()
    }

    /// Every request of one action so far.
    pub(crate) fn calls(&self, action: &str) -> Vec<Request> {
        self.journal().into_iter().filter(|request| request.action == action).collect()
    }

    /// The rights that the calls needed, as a policy names them: `ec2:RunInstances`; `ec2:CreateTags` and `iam:PassRole` where a
    /// creating call gives tags or a profile.
    pub(crate) fn actions(&self) -> BTreeSet<String> {
        self.wire.actions.lock().unwrap().clone()
    }

    /// What moto really has, asked past the proxy; terminated ones too.
    pub(crate) async fn instances(&self) -> Vec<Truth> {
        self.wire.true_instances(&[]).await.unwrap()
    }

    /// The same for volumes.
    pub(crate) async fn volumes(&self) -> Vec<VolumeTruth> {
        let phantoms = self.wire.state.lock().unwrap().phantoms.clone();
        let all = self.wire.true_volumes(&[]).await.unwrap();
        all.into_iter().filter(|volume| !phantoms.contains(&volume.id)).collect()
    }

    /// Does something that is not ours, past every rule: somebody at the console, AWS itself. Gives moto's answer.
    pub(crate) async fn behind_our_back(&self, action: &str, params: &[(&str, &str)]) -> String {
        match self.wire.ask(action, &params.iter().copied().collect::<Params>()).await {
            Ok(answer) => answer,
            Err(Stop::Refused(refusal)) => panic!("{action}: {refusal:?}"),
            Err(Stop::Cut) => panic!("{action}: cut"),
        }
    }

    /// A terminated machine is not shown any more, as AWS does after about an hour.
    pub(crate) fn forget(&self, id: &str) {
        let mut state = self.wire.state.lock().unwrap();
        state.known_at.insert(id.to_owned(), Duration::MAX);
        state.listed_at.insert(id.to_owned(), Duration::MAX);
    }

    /// From now on these snapshots of EBS direct are of one volume: AWS compares no others.
    pub(crate) fn of_one_volume(&self, snapshots: &[&str]) {
        let mut state = self.wire.state.lock().unwrap();
        let line = snapshots[0].to_owned();
        for id in snapshots {
            state.snapshots.get_mut(*id).unwrap().line.clone_from(&line);
        }
    }

    /// The most calls of one action that were under way at once.
    pub(crate) fn most_at_once(&self, action: &str) -> usize {
        self.wire.journal.most_at_once(action)
    }

    /// Makes something go wrong; the number is for [`Cloud::lift`].
    pub(crate) fn inject(&self, fault: Fault) -> u64 {
        self.wire.faults.inject(fault)
    }

    /// Ends a fault that has not been used up.
    pub(crate) fn lift(&self, fault: u64) {
        self.wire.faults.lift(Some(fault));
    }

    /// Ends all faults.
    pub(crate) fn lift_all(&self) {
        self.wire.faults.lift(None);
    }

    /// How many faults wait for a call that they fit.
    pub(crate) fn faults_waiting(&self) -> usize {
        self.wire.faults.waiting()
    }

    pub(super) fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Moves the clock of budgets and lags.
    pub(crate) fn pass(&self, time: Duration) {
        self.wire.clock.pass(time);
    }

    /// From now on machines may have this instance profile, named as the request names it.
    pub(crate) fn allow_profile(&self, name: &str) {
        self.wire.profiles.lock().unwrap().insert(name.to_owned());
    }

    /// What requests did that no request of ours may do; asked for, it is no failure any more.
    pub(crate) fn violations(&self) -> Vec<String> {
        std::mem::take(&mut *self.wire.violations.lock().unwrap())
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.server.abort();
        if !self.by_hand {
            let beyond = self.actions().difference(&policy::actions(&Features::ALL)).cloned().collect();
            self.wire.violated("beyond `vm-service iam-policy`", beyond);
        }
        let left = self.violations();
        assert!(left.is_empty() || std::thread::panicking(), "violations that were overlooked:\n{}", left.join("\n"));
    }
}

async fn listen(listener: TcpListener, wire: Arc<Wire>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, wire.clone()));
    }
}

/// One connection; an error of the service cuts it without an answer.
async fn serve(stream: TcpStream, wire: Arc<Wire>) {
    let service = service_fn(|request: HttpRequest<Incoming>| {
        let wire = wire.clone();
        async move {
            let raw = read(request).await?;
            // The caller may hang up; what it asked for is done all the same.
            let answer = tokio::spawn(async move { wire.answer(raw).await }).await.map_err(io::Error::other)?;
            answer.ok_or_else(|| io::Error::other("cut on purpose"))
        }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn read(request: HttpRequest<Incoming>) -> io::Result<Raw> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(Body::new(body), LARGEST_BODY).await.map_err(io::Error::other)?;
    Ok(Raw {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
    })
}

//! `[[target]]`: what agents connect to, and how the gateway gets there.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::super::raw::{At, RawCredential, RawLogin, RawRdsIam, RawTarget, RawTls, RawTlsMode};
use super::super::{METADATA_ADDRESSES, text};
use super::{Names, Resolver, Scope, absolute, not_empty, reason};
use crate::target::{Address, AwsKeys, Host, Login, Proof, Protocol, RdsIam, Target, TlsMode};

/// Where the metadata service is if nothing else is said.
const METADATA_SERVICE: SocketAddr = SocketAddr::new(METADATA_ADDRESSES[0], 80);

impl Resolver<'_> {
    pub(super) fn targets(&mut self, raw: Vec<(usize, At<RawTarget>)>) -> Vec<Target> {
        let mut names = Names::new("target");
        let mut seen: Vec<(Address, String)> = Vec::new();
        let mut targets = Vec::new();
        for (file, At { value: raw, span }) in raw {
            let scope = Scope::named(file, "target", &raw.name.value);
            names.add(&mut self.out, &scope, &raw.name);
            let address = self.addresses(&scope, &raw.address);
            for (address, at) in address.iter().zip(&raw.address.value) {
                if let Some((_, other)) = seen.iter().find(|(it, _)| it == address) {
                    let message = format!(
                        "is an address of target \"{other}\" too: connections to it are ambiguous, and refused"
                    );
                    self.out.warn(&scope, &at.span, "address", message);
                }
                seen.push((address.clone(), raw.name.value.clone()));
            }
            let resolve = raw.resolve.iter().enumerate().filter_map(|(i, at)| {
                self.out.read(&scope, &format!("resolve[{i}]"), at, |text| {
                    text.parse::<IpAddr>().map_err(|_| format!("{text:?} is no IP address"))
                })
            });
            let resolve: Vec<IpAddr> = resolve.collect();
            let within = raw
                .resolve_within
                .iter()
                .enumerate()
                .filter_map(|(i, at)| self.out.read(&scope, &format!("resolve_within[{i}]"), at, text::network));
            let resolve_within = within.collect();
            if let (false, Some(at)) = (raw.resolve.is_empty(), raw.resolve_within.first()) {
                let message = "has no meaning beside resolve, which says the addresses themselves";
                self.out.fault(&scope, &at.span, "resolve_within", message);
            }
            self.suits_protocol(&scope, &raw, &span);
            let tls = self.tls(&scope, raw.tls.as_ref());
            let login = raw.login.and_then(|login| self.login(&scope, &login, &tls, &address));
            let server_names = raw.server_names.into_iter().flat_map(|At { value, span }| {
                value
                    .into_iter()
                    .filter_map(|name| {
                        let name = At { value: name, span: span.clone() };
                        self.out.read(&scope, "server_names", &name, text::server_name)
                    })
                    .collect::<Vec<_>>()
            });
            let server_names = server_names.collect();
            targets.push(Target {
                name: raw.name.value,
                protocol: raw.protocol,
                address,
                resolve,
                resolve_within,
                databases: raw.databases.map(|it| it.value).unwrap_or_default(),
                read_only_sessions: raw.read_only_sessions.is_none_or(|it| it.value),
                pool_mode: raw.pool_mode.map(|it| it.value),
                tls,
                login,
                server_names,
            });
        }
        targets
    }

    fn addresses(&mut self, scope: &Scope, raw: &At<Vec<At<String>>>) -> Vec<Address> {
        if raw.value.is_empty() {
            self.out.fault(scope, &raw.span, "address", "is empty: nothing would reach this target");
        }
        let mut addresses = Vec::new();
        for (i, at) in raw.value.iter().enumerate() {
            addresses.extend(self.out.read(scope, &format!("address[{i}]"), at, text::address));
        }
        addresses
    }

    /// Keys that make sense for some protocols only.
    fn suits_protocol(&mut self, scope: &Scope, raw: &RawTarget, span: &Range<usize>) {
        let mut only = |key: &str, at: Option<&Range<usize>>, why: &str| {
            if let Some(at) = at {
                self.out.fault(scope, at, key, format!("{} targets have none: {why}", raw.protocol.as_str()));
            }
        };
        match raw.protocol {
            Protocol::TlsPassthrough => {
                let why = "their bytes are passed on as they are";
                only("login", raw.login.as_ref().map(|it| &it.span), why);
                only("tls", raw.tls.as_ref().map(|it| &it.span), why);
                only("databases", raw.databases.as_ref().map(|it| &it.span), why);
                only("read_only_sessions", raw.read_only_sessions.as_ref().map(|it| &it.span), why);
                only("pool_mode", raw.pool_mode.as_ref().map(|it| &it.span), why);
            }
            Protocol::Postgres => {
                let why = "sessions are told apart by address";
                only("server_names", raw.server_names.as_ref().map(|it| &it.span), why);
                if raw.login.is_none() && !self.out.is_cut(scope, "login") {
                    let message = "needs a login = { user = …, password = { credential = … } }: the gateway logs in, agents have no password";
                    self.out.fault(scope, span, "", message);
                }
            }
        }
    }

    fn tls(&mut self, scope: &Scope, raw: Option<&At<RawTls>>) -> TlsMode {
        let Some(At { value: raw, span }) = raw else { return TlsMode::VerifyFull { ca: None, server_name: None } };
        let scope = Scope { file: scope.file, path: scope.key("tls") };
        let out = &mut self.out;
        let ca = raw.ca.as_ref().and_then(|ca| out.read(&scope, "ca", ca, absolute));
        let server_name = raw.server_name.as_ref().and_then(|name| out.read(&scope, "server_name", name, text::name));
        let insecure = reason(out, &scope, raw.insecure.as_ref());
        let mode = raw.mode.as_ref().map_or(RawTlsMode::VerifyFull, |mode| mode.value);
        let mut unused = |key: &str, at: Option<&At<String>>, mode: &str| {
            if let Some(at) = at {
                out.fault(&scope, &at.span, key, format!("has no meaning with mode = \"{mode}\""));
            }
        };
        let name = match mode {
            RawTlsMode::VerifyFull => {
                unused("insecure", raw.insecure.as_ref(), "verify-full");
                return TlsMode::VerifyFull { ca, server_name };
            }
            RawTlsMode::VerifyCa => "verify-ca",
            RawTlsMode::Disable => "disable",
        };
        unused("server_name", raw.server_name.as_ref(), name);
        if matches!(mode, RawTlsMode::Disable) {
            unused("ca", raw.ca.as_ref(), name);
        }
        if raw.insecure.is_none() {
            let at = raw.mode.as_ref().map_or(span, |mode| &mode.span);
            let message = format!(
                "mode = \"{name}\" lets others pose as the target; say why that is good enough here: insecure = \"…\""
            );
            out.fault(&scope, at, "mode", message);
        }
        let insecure = insecure.unwrap_or_default();
        match mode {
            RawTlsMode::Disable => TlsMode::Disable { insecure },
            RawTlsMode::VerifyCa | RawTlsMode::VerifyFull => TlsMode::VerifyCa { ca, insecure },
        }
    }

    fn login(&mut self, scope: &Scope, raw: &At<RawLogin>, tls: &TlsMode, address: &[Address]) -> Option<Login> {
        let At { value: raw, span } = raw;
        let user = self.out.read(scope, "login.user", &raw.user, not_empty);
        let proof = match (&raw.password, &raw.rds_iam) {
            (Some(password), None) => {
                self.out.credential(scope, "login.password", password, "orders-db").map(Proof::Password)
            }
            (None, Some(iam)) => {
                self.suits_rds_iam(scope, &iam.span, tls, address);
                self.rds_iam(scope, &iam.value).map(Proof::RdsIam)
            }
            (Some(_), Some(iam)) => {
                let message = "has no meaning beside password: a login is proven by one of them";
                self.out.fault(scope, &iam.span, "login.rds_iam", message);
                None
            }
            (None, None) => {
                if !self.out.is_cut(scope, "login") {
                    let message = "needs a password = { credential = … } or an rds_iam = { region = … }: what proves the user to the target";
                    self.out.fault(scope, span, "login", message);
                }
                None
            }
        };
        Some(Login { user: user?, proof: proof? })
    }

    /// Whoever gets a token can log in with it: only the server of the name that it is for may.
    fn suits_rds_iam(&mut self, scope: &Scope, span: &Range<usize>, tls: &TlsMode, address: &[Address]) {
        let mut fault = |message: &str| self.out.fault(scope, span, "login.rds_iam", message);
        let TlsMode::VerifyFull { server_name, .. } = tls else {
            return fault(
                "sends a token with which whoever gets it can log in: certificate and name must be verified; take mode and insecure \
                 out of tls, and name a file with AWS's CAs there: tls = { ca = … }",
            );
        };
        let is_named = server_name.is_some() || address.iter().any(|it| matches!(it.host, Host::Name(_)));
        if !is_named && !address.is_empty() {
            fault(
                "needs the host name that tokens are for: write the instance's into address, or tls = { server_name = … }",
            );
        }
    }

    fn rds_iam(&mut self, scope: &Scope, raw: &RawRdsIam) -> Option<RdsIam> {
        let scope = Scope { file: scope.file, path: scope.key("login.rds_iam") };
        let region = self.out.read(&scope, "region", &raw.region, text::aws_region);
        let keys = match (&raw.access_key_id, &raw.secret_access_key) {
            (Some(id), Some(key)) => self.held_keys(&scope, raw, id, key),
            (None, None) => self.instance_role(&scope, raw),
            (Some(id), None) => self.half_a_key(&scope, &id.span, ["access_key_id", "secret_access_key"]),
            (None, Some(key)) => self.half_a_key(&scope, &key.span, ["secret_access_key", "access_key_id"]),
        };
        Some(RdsIam { region: region?, keys: keys? })
    }

    fn half_a_key(&mut self, scope: &Scope, span: &Range<usize>, [known, lacks]: [&str; 2]) -> Option<AwsKeys> {
        if !self.out.is_cut(scope, "") {
            self.out.fault(scope, span, known, format!("is half of a key: {lacks} is missing"));
        }
        None
    }

    fn held_keys(
        &mut self,
        scope: &Scope,
        raw: &RawRdsIam,
        id: &At<String>,
        key: &At<RawCredential>,
    ) -> Option<AwsKeys> {
        let out = &mut self.out;
        if let Some(at) = &raw.ec2_metadata_service_endpoint {
            let message = "has no meaning beside access_key_id: the instance's role is not asked for";
            out.fault(scope, &at.span, "ec2_metadata_service_endpoint", message);
        }
        let access_key_id = out.read(scope, "access_key_id", id, text::aws_access_key_id);
        let secret_access_key = out.credential(scope, "secret_access_key", key, "aws-key");
        let token = raw.session_token.as_ref();
        let session_token = token.map(|token| out.credential(scope, "session_token", token, "aws-token"));
        if token.is_none() && id.value.starts_with("ASIA") && !out.is_cut(scope, "session_token") {
            let message = "is a temporary key's, which is good with its session_token = { credential = … } only";
            out.fault(scope, &id.span, "access_key_id", message);
        }
        Some(AwsKeys::Held {
            access_key_id: access_key_id?,
            secret_access_key: secret_access_key?,
            session_token: match session_token {
                Some(token) => Some(token?),
                None => None,
            },
        })
    }

    fn instance_role(&mut self, scope: &Scope, raw: &RawRdsIam) -> Option<AwsKeys> {
        if let Some(at) = &raw.session_token {
            let message = "has no meaning without access_key_id and secret_access_key";
            self.out.fault(scope, &at.span, "session_token", message);
        }
        let metadata_service = match &raw.ec2_metadata_service_endpoint {
            Some(at) => {
                let service = self.out.read(scope, "ec2_metadata_service_endpoint", at, text::metadata_service)?;
                if service.ip().is_loopback() {
                    let message = "is an address that any process of this host may bind while nobody does, and be asked for keys in \
                                   AWS's place: whoever gives the keys decides as whom the gateway logs in";
                    self.out.warn(scope, &at.span, "ec2_metadata_service_endpoint", message);
                }
                service
            }
            None => METADATA_SERVICE,
        };
        Some(AwsKeys::InstanceRole { metadata_service })
    }
}

use std::collections::BTreeMap;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::rules::rule_for;
use super::*;
use crate::config::{AuthConfig, NameSet, Transport};
use crate::frontend::TlsPeer;

const END_POINT: [u8; 3] = [1, 2, 3];

fn plain(password: &str) -> UserSecret {
    UserSecret::Password(password.to_owned())
}

fn scram(password: &str) -> UserSecret {
    UserSecret::of_stored(&postgres_protocol::password::scram_sha_256(password.as_bytes()))
}

fn md5(password: &str, user: &str) -> UserSecret {
    UserSecret::of_stored(&postgres_protocol::password::md5(password.as_bytes(), user))
}

fn tls(common_name: Option<&str>) -> Peer {
    let certificate = common_name.map(|name| ClientCertificate {
        common_name: (!name.is_empty()).then(|| name.to_owned()),
        distinguished_name: format!("CN={name}"),
    });
    Peer { address: Some(([192, 0, 2, 1], 5).into()), tls: Some(TlsPeer { server_end_point: END_POINT.to_vec(), certificate }) }
}

/// A user of the users file, if any, and how it comes.
struct Case {
    user: &'static str,
    secret: Option<UserSecret>,
    rule: AuthRule,
    peer: Peer,
}

impl Case {
    fn new(method: AuthMethod, secret: Option<UserSecret>) -> Self {
        Self { user: "ann", secret, rule: AuthRule::of_method(method), peer: Peer::unix() }
    }

    fn start(&self) -> Authenticator {
        let known = self.secret.clone().map(|secret| Arc::new(UserConfig::new(secret, None, None)));
        self.start_as(known, false)
    }

    fn start_as(&self, known: Option<Arc<UserConfig>>, unknown_by_md5: bool) -> Authenticator {
        Authenticator::begin(Login { user: self.user, peer: &self.peer, rule: &self.rule, known, unknown_by_md5 })
    }
}

/// A step, with passwords stretched at once.
fn step(authenticator: &mut Authenticator, input: AuthInput<'_>) -> AuthStep {
    match authenticator.step(input) {
        AuthStep::Stretch { salting, password } => step(authenticator, AuthInput::Stretched(salting.stretch(&password))),
        other => other,
    }
}

fn sent(step: AuthStep) -> BytesMut {
    match step {
        AuthStep::Send(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn failed(step: AuthStep) -> String {
    match step {
        AuthStep::Fail(report) => report.detail.iter().fold(report.to_string(), |text, detail| format!("{text} ({detail})")),
        other => panic!("{other:?}"),
    }
}

fn done(step: AuthStep) -> Credentials {
    match step {
        AuthStep::Done { send, identity } => {
            assert!(send.ends_with(b"R\0\0\0\x08\0\0\0\0"), "{send:?}");
            identity.credentials
        }
        other => panic!("{other:?}"),
    }
}

fn initial(mechanism: &str, message: &[u8]) -> Vec<u8> {
    let length = i32::try_from(message.len()).expect("short").to_be_bytes();
    [mechanism.as_bytes(), b"\0", &length, message].concat()
}

fn first(message: &str) -> Vec<u8> {
    initial("SCRAM-SHA-256", message.as_bytes())
}

fn offered(case: &Case) -> Authenticator {
    let mut authenticator = case.start();
    let expected: &[u8] = match case.peer.tls {
        Some(_) => b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
        None => b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0",
    };
    assert_eq!(&sent(step(&mut authenticator, AuthInput::Begin))[..], expected);
    assert_eq!(authenticator.expected(), Expected::Sasl);
    authenticator
}

/// A login by postgres_protocol's client, up to the step that ends it, and the salt it was told.
fn scram_login(authenticator: &mut Authenticator, password: &str, binding: ChannelBinding) -> (AuthStep, String) {
    let mut client = ScramSha256::new(password.as_bytes(), binding);
    let mechanism = if client.message().starts_with(b"p=") { "SCRAM-SHA-256-PLUS" } else { "SCRAM-SHA-256" };
    let first = initial(mechanism, client.message());
    let challenge = match step(authenticator, AuthInput::Message(&first)) {
        AuthStep::Send(bytes) => bytes,
        end => return (end, String::new()),
    };
    let text = std::str::from_utf8(&challenge[9..]).expect("ASCII").to_owned();
    client.update(&challenge[9..]).expect("a server-first-message");
    let end = step(authenticator, AuthInput::Message(client.message()));
    if let AuthStep::Done { send, .. } = &end {
        let (server_final, _) = send.split_at(send.len() - 9);
        client.finish(&server_final[9..]).expect("the server proves itself too");
    }
    (end, text.split(',').nth(1).expect("a salt").to_owned())
}

fn log_in(case: &Case, password: &str) -> (AuthStep, String) {
    scram_login(&mut offered(case), password, ChannelBinding::unsupported())
}

#[test]
fn right_password() {
    let credentials = done(log_in(&Case::new(AuthMethod::ScramSha256, Some(plain("pencil"))), "pencil").0);
    let secret = Secret::Password(Password::new("pencil".to_owned()));
    assert_eq!(credentials, Credentials { user: "ann".to_owned(), secret });
}

#[test]
fn a_password_is_stretched_once() {
    let case = Case::new(AuthMethod::ScramSha256, None);
    let known = Arc::new(UserConfig::new(plain("pencil"), None, None));
    let mut starting = case.start_as(Some(Arc::clone(&known)), false);
    assert!(matches!(starting.step(AuthInput::Begin), AuthStep::Stretch { .. }));
    let salted = salting_of("ann").stretch(b"pencil");
    assert!(matches!(starting.step(AuthInput::Stretched(salted)), AuthStep::Send(_)));
    assert!(matches!(case.start_as(Some(known), false).step(AuthInput::Begin), AuthStep::Send(_)));
}

#[test]
fn wrong_password_and_unknown_user_look_alike() {
    let cases = [Some(plain("pencil")), None, Some(UserSecret::None), Some(md5("pencil", "ann"))];
    let mut salts = Vec::new();
    for secret in cases {
        let case = Case::new(AuthMethod::ScramSha256, secret);
        let (end, salt) = log_in(&case, "pen");
        assert_eq!(failed(end), "28P01: password authentication failed for user \"ann\"");
        assert_eq!(log_in(&case, "").1, salt, "the salt stays");
        salts.push(salt);
    }
    salts.dedup();
    assert_eq!(salts.len(), 1, "whether a user exists does not show in the salt of its name");
    let other = Case { user: "bob", ..Case::new(AuthMethod::ScramSha256, None) };
    assert_ne!(log_in(&other, "").1, salts[0]);
}

#[test]
fn stored_secret_of_postgres_and_what_its_proof_tells() {
    let case = Case::new(AuthMethod::ScramSha256, Some(scram("pencil")));
    let credentials = done(log_in(&case, "pencil").0);
    let Secret::Scram(keys) = &credentials.secret else { panic!("{credentials:?}") };
    assert!(case.secret == Some(UserSecret::Scram(keys.verifier())), "the keys are those of the stored secret");
    assert!(**keys == ClientKeys::of_salted(keys.salting.clone(), &keys.salting.stretch(b"pencil")));
    assert!(failed(log_in(&case, "pen").0).starts_with("28P01"));
}

#[test]
fn another_user_towards_the_servers_has_its_own_password_or_none() {
    let case = Case::new(AuthMethod::ScramSha256, None);
    let credentials = |backend_password: Option<&str>| {
        let known = UserConfig::new(plain("pencil"), Some("app".to_owned()), backend_password.map(str::to_owned));
        let mut authenticator = case.start_as(Some(Arc::new(known)), false);
        sent(step(&mut authenticator, AuthInput::Begin));
        done(scram_login(&mut authenticator, "pencil", ChannelBinding::unsupported()).0)
    };
    let with = credentials(Some("secret"));
    assert_eq!((with.user.as_str(), &with.secret), ("app", &Secret::Password(Password::new("secret".to_owned()))));
    assert!(!format!("{with:?}").contains("secret"));
    assert_eq!(credentials(None).secret, Secret::None, "ann's password is not app's");
}

#[test]
fn channel_binding_over_tls() {
    let case = Case { peer: tls(None), ..Case::new(AuthMethod::ScramSha256, Some(plain("pencil"))) };
    let attempt = |binding| scram_login(&mut offered(&case), "pencil", binding).0;
    done(attempt(ChannelBinding::tls_server_end_point(END_POINT.to_vec())));
    done(attempt(ChannelBinding::unsupported()));
    let other = attempt(ChannelBinding::tls_server_end_point(vec![9]));
    assert_eq!(failed(other), "28000: SCRAM channel binding check failed");
    let downgraded = failed(attempt(ChannelBinding::unrequested()));
    assert!(downgraded.starts_with("28000: SCRAM channel binding negotiation error (The client supports"), "{downgraded}");
    let clear = Case::new(AuthMethod::ScramSha256, Some(plain("pencil")));
    done(scram_login(&mut offered(&clear), "pencil", ChannelBinding::unrequested()).0);
}

/// The answers of a Postgres 15 server to the same bytes.
#[test]
fn malformed_initial_responses() {
    let clear = Case::new(AuthMethod::ScramSha256, Some(plain("pencil")));
    let mechanism = "08P01: client selected an invalid SASL authentication mechanism".to_owned();
    let malformed = |detail: &str| format!("08P01: malformed SCRAM message ({detail})");
    let cases = [
        (initial("FOO", b"x"), mechanism.clone()),
        (initial("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc"), mechanism),
        (b"SCRAM-SHA-256".to_vec(), "08P01: invalid string in message".to_owned()),
        (b"SCRAM-SHA-256\0\0\0".to_vec(), "08P01: insufficient data left in message".to_owned()),
        (b"SCRAM-SHA-256\0\xff\xff\xff\xfe".to_vec(), "08P01: insufficient data left in message".to_owned()),
        (b"SCRAM-SHA-256\0\0\0\0\x32abc".to_vec(), "08P01: insufficient data left in message".to_owned()),
        ([first("n,,n=,r=abc"), b"zz".to_vec()].concat(), "08P01: invalid message format".to_owned()),
        (Vec::new(), "08P01: invalid string in message".to_owned()),
        (first(""), malformed("The message is empty.")),
        (first("n,,n=,r=a\0c"), malformed("Message length does not match input length.")),
        (first("n,a=joe,n=,r=abc"), "0A000: client uses authorization identity, but it is not supported".to_owned()),
        (first("n,,m=1,n=,r=abc"), "0A000: client requires an unsupported SCRAM extension".to_owned()),
        (initial("SCRAM-SHA-256", b"n,,n=,r=\x01\xff"), "08P01: non-printable characters in SCRAM nonce".to_owned()),
        (first("n,,n=,r=a b"), "08P01: non-printable characters in SCRAM nonce".to_owned()),
        (first("n"), malformed("Comma expected, but found character \"0x00\".")),
        (first("nx"), malformed("Comma expected, but found character \"'x'\".")),
        (first("x,,n=,r=a"), malformed("Unexpected channel-binding flag \"'x'\".")),
        (initial("SCRAM-SHA-256", b"\xff,,"), malformed("Unexpected channel-binding flag \"0xff\".")),
        (first("n,x,n=,r=a"), malformed("Unexpected attribute \"'x'\" in client-first-message.")),
        (first("n,,x=,r=a"), malformed("Expected attribute \"n\" but found \"'x'\".")),
        (first("n,,n=,x=a"), malformed("Expected attribute \"r\" but found \"'x'\".")),
        (first("n,,n"), malformed("Expected character \"=\" for attribute \"n\".")),
        (first("n,,n="), malformed("Expected attribute \"r\" but found \"0x00\".")),
        (first("n,,n=,r=abc,1=2"), malformed("Attribute expected, but found invalid character \"'1'\".")),
        (first("n,,n=,r=abc,x"), malformed("Expected character \"=\" for attribute \"x\".")),
        (
            first("p=x,,n=,r=abc"),
            malformed(
                "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
            ),
        ),
    ];
    for (payload, expected) in cases {
        assert_eq!(failed(step(&mut offered(&clear), AuthInput::Message(&payload))), expected, "{payload:?}");
    }
    let tls = Case { peer: tls(None), ..clear };
    let bound =
        |message: &str| failed(step(&mut offered(&tls), AuthInput::Message(&initial("SCRAM-SHA-256-PLUS", message.as_bytes()))));
    let without =
        malformed("The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.");
    assert_eq!((bound("n,,n=,r=abc"), bound("y,,n=,r=abc")), (without.clone(), without));
    assert_eq!(bound("p=tls-unique,,n=,r=abc"), "08P01: unsupported SCRAM channel-binding type \"tls-unique\"");
    assert_eq!(bound("p=tls-server-end-point"), malformed("Unexpected attribute \"0x00\" in client-first-message."));
}

#[test]
fn unusual_but_right_initial_responses() {
    let case = Case::new(AuthMethod::ScramSha256, Some(plain("pencil")));
    let long = "x".repeat(60_000);
    for nonce in ["", "abc,x=1", "abc", &long] {
        let payload = first(&format!("n,,n=,r={nonce}"));
        let step = step(&mut offered(&case), AuthInput::Message(&payload));
        assert!(matches!(step, AuthStep::Send(_)) || nonce.len() > 1_000, "{nonce:.100}: {step:?}");
    }
    let mut authenticator = offered(&case);
    let asked = sent(step(&mut authenticator, AuthInput::Message(b"SCRAM-SHA-256\0\xff\xff\xff\xff")));
    assert_eq!(&asked[..], b"R\0\0\0\x08\0\0\0\x0b", "a mechanism chosen without a message is asked for it");
    assert!(sent(step(&mut authenticator, AuthInput::Message(b"n,,n=,r=abc")))[9..].starts_with(b"r=abc"));
}

/// The answers of a Postgres 15 server to the same bytes.
#[test]
fn malformed_final_messages() {
    let proof = "p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let malformed = |detail: &str| format!("08P01: malformed SCRAM message ({detail})");
    let wrong = "28P01: password authentication failed for user \"ann\"".to_owned();
    let binding = "08P01: unexpected SCRAM channel-binding attribute in client-final-message".to_owned();
    let other_nonce = "08P01: invalid SCRAM response (Nonce does not match.)".to_owned();
    let cases = [
        (format!("c=biws,NONCE,{proof}"), wrong.clone()),
        (format!("c=biws,NONCE,x=1,{proof}"), wrong.clone()),
        (format!("c=biws,NONCE,{proof},"), wrong),
        (format!("c=biws,r=abc,{proof}"), other_nonce.clone()),
        (format!("c=biws,NONCEx,{proof}"), other_nonce),
        (format!("c=eSws,NONCE,{proof}"), binding.clone()),
        ("c=".to_owned(), binding.clone()),
        ("c=xxx,r=1".to_owned(), binding),
        ("c=biws,NONCE,p=AAAA".to_owned(), malformed("Malformed proof in client-final-message.")),
        ("c=biws,NONCE,p=!!!!".to_owned(), malformed("Malformed proof in client-final-message.")),
        ("c=biws,NONCE,p=".to_owned(), malformed("Malformed proof in client-final-message.")),
        (format!("c=biws,NONCE,{proof},x=1"), malformed("Garbage found at the end of client-final-message.")),
        ("c=biws,NONCE".to_owned(), malformed("Attribute expected, but found end of string.")),
        ("c=biws,NONCE,".to_owned(), malformed("Attribute expected, but found end of string.")),
        (format!("c=biws,NONCE,1=1,{proof}"), malformed("Attribute expected, but found invalid character \"'1'\".")),
        ("c=biws".to_owned(), malformed("Expected attribute \"r\" but found \"0x00\".")),
        ("hello".to_owned(), malformed("Expected attribute \"c\" but found \"'h'\".")),
        (",p=".to_owned(), malformed("Expected attribute \"c\" but found \"','\".")),
        (String::new(), malformed("The message is empty.")),
        ("c=b\0".to_owned(), malformed("Message length does not match input length.")),
    ];
    let case = Case::new(AuthMethod::ScramSha256, Some(plain("pencil")));
    for (message, expected) in cases {
        let mut authenticator = offered(&case);
        let challenge = sent(step(&mut authenticator, AuthInput::Message(&first("n,,n=,r=abc"))));
        let text = std::str::from_utf8(&challenge[9..]).expect("ASCII");
        let message = message.replace("NONCE", text.split(',').next().expect("a nonce"));
        assert_eq!(failed(step(&mut authenticator, AuthInput::Message(message.as_bytes()))), expected, "{message}");
        assert!(failed(step(&mut authenticator, AuthInput::Message(b"again"))).starts_with("08P01"), "over is over");
    }
}

/// The last step of a login by PasswordMessage, and what was asked for.
fn password_login(case: &Case, unknown_by_md5: bool, answer: impl Fn(&[u8]) -> Vec<u8>) -> AuthStep {
    let known = case.secret.clone().map(|secret| Arc::new(UserConfig::new(secret, None, None)));
    let mut authenticator = case.start_as(known, unknown_by_md5);
    let request = sent(step(&mut authenticator, AuthInput::Begin));
    assert_eq!(authenticator.expected(), Expected::Password);
    step(&mut authenticator, AuthInput::Message(&answer(&request)))
}

fn md5_answer(password: &'static str) -> impl Fn(&[u8]) -> Vec<u8> {
    move |request| {
        assert_eq!(&request[..9], b"R\0\0\0\x0c\0\0\0\x05");
        let salt = request[9..].try_into().expect("four bytes");
        format!("{}\0", md5_hash(b"ann", password.as_bytes(), salt)).into_bytes()
    }
}

fn plain_answer(password: &'static str) -> impl Fn(&[u8]) -> Vec<u8> {
    move |request| {
        assert_eq!(request, b"R\0\0\0\x08\0\0\0\x03");
        format!("{password}\0").into_bytes()
    }
}

const WRONG: &str = "28P01: password authentication failed for user \"ann\"";

#[test]
fn md5_by_password_and_by_stored_secret() {
    let by_password = Case::new(AuthMethod::Md5, Some(plain("pencil")));
    let stored = Case::new(AuthMethod::Md5, Some(md5("pencil", "ann")));
    assert!(matches!(done(password_login(&by_password, false, md5_answer("pencil"))).secret, Secret::Password(_)));
    assert!(matches!(done(password_login(&stored, false, md5_answer("pencil"))).secret, Secret::Md5(_)));
    let unknown = Case::new(AuthMethod::Md5, None);
    for case in [by_password, stored, unknown] {
        assert_eq!(failed(password_login(&case, true, md5_answer("pen"))), WRONG);
        assert_eq!(failed(password_login(&case, true, |_| b"md5\0".to_vec())), WRONG);
    }
}

/// As Postgres: a stored SCRAM secret is proved by SCRAM, also where the rule says md5.
#[test]
fn md5_becomes_scram_where_the_secret_is_one() {
    done(log_in(&Case::new(AuthMethod::Md5, Some(scram("pencil"))), "pencil").0);
    assert_eq!(failed(log_in(&Case::new(AuthMethod::Md5, None), "pencil").0), WRONG);
}

#[test]
fn plain_passwords_against_every_kind_of_secret() {
    for secret in [plain("pencil"), scram("pencil"), md5("pencil", "ann")] {
        let case = Case::new(AuthMethod::Plain, Some(secret));
        let credentials = done(password_login(&case, false, plain_answer("pencil")));
        assert_eq!(credentials.secret, Secret::Password(Password::new("pencil".to_owned())), "it is given on");
        assert_eq!(failed(password_login(&case, false, plain_answer("pen"))), WRONG);
    }
    for secret in [None, Some(UserSecret::None)] {
        assert_eq!(failed(password_login(&Case::new(AuthMethod::Plain, secret), false, plain_answer("pencil"))), WRONG);
    }
}

/// The answers of a Postgres 15 server to the same bytes.
#[test]
fn malformed_password_messages() {
    for method in [AuthMethod::Plain, AuthMethod::Md5] {
        let case = Case::new(method, Some(plain("pencil")));
        for (payload, expected) in [
            (&b""[..], "08P01: invalid password packet size"),
            (b"abc", "08P01: invalid password packet size"),
            (b"a\0b\0", "08P01: invalid password packet size"),
            (b"\0", "28P01: empty password returned by client"),
            (b"\xff\xfe\0", WRONG),
        ] {
            assert_eq!(failed(password_login(&case, false, |_| payload.to_vec())), expected, "{method:?} {payload:?}");
        }
    }
}

#[test]
fn an_unknown_user_takes_as_long_under_plain() {
    for secret in [None, Some(plain("pencil")), Some(scram("pencil")), Some(md5("pencil", "ann"))] {
        let mut authenticator = Case::new(AuthMethod::Plain, secret).start();
        sent(authenticator.step(AuthInput::Begin));
        let next = authenticator.step(AuthInput::Message(b"x\0"));
        assert!(matches!(next, AuthStep::Stretch { .. }), "{next:?}");
    }
}

#[test]
fn certificates_name_their_users() {
    let cert = |peer| Case { peer, ..Case::new(AuthMethod::Cert, None) };
    let attempt = |case: &Case| step(&mut case.start(), AuthInput::Begin);
    assert_eq!(done(attempt(&cert(tls(Some("ann"))))).secret, Secret::None);
    let other = "28000: certificate authentication failed for user \"ann\"";
    assert_eq!(failed(attempt(&cert(tls(Some("bob"))))), other);
    assert_eq!(failed(attempt(&cert(tls(Some(""))))), other);
    assert_eq!(failed(attempt(&cert(tls(None)))), "28000: connection requires a valid client certificate");
    let mut mapped = cert(tls(Some("ann")));
    mapped.rule.map = Some(BTreeMap::from([("robot 7".to_owned(), vec!["bob".to_owned(), "ann".to_owned()])]));
    assert_eq!(failed(attempt(&mapped)), other, "with a map only the map counts");
    mapped.peer = tls(Some("robot 7"));
    done(attempt(&mapped));
}

#[test]
fn trust_lets_anyone_in() {
    let case = Case { user: "anyone", ..Case::new(AuthMethod::Trust, None) };
    let credentials = done(step(&mut case.start(), AuthInput::Begin));
    assert_eq!(credentials, Credentials { user: "anyone".to_owned(), secret: Secret::None });
}

#[test]
fn the_first_rule_that_fits_counts_and_none_is_told_as_postgres_tells() {
    let unix = AuthRule { transport: Some(Transport::Unix), ..AuthRule::of_method(AuthMethod::Trust) };
    let rejected = AuthRule { users: NameSet::Listed(vec!["eve".to_owned()]), ..AuthRule::of_method(AuthMethod::Reject) };
    let encrypted = AuthRule { transport: Some(Transport::Tls), ..AuthRule::of_method(AuthMethod::Plain) };
    let auth = AuthConfig { rules: vec![unix, rejected, encrypted], ..AuthConfig::of_method(AuthMethod::Trust) };
    let clear = Peer::tcp(([192, 0, 2, 1], 5).into());
    let told = |user: &str, peer: &Peer| match rule_for(&auth, "shop", user, peer) {
        Ok(rule) => rule.method.as_str().to_owned(),
        Err(report) => report.to_string(),
    };
    assert_eq!((told("eve", &Peer::unix()).as_str(), told("ann", &tls(None)).as_str()), ("trust", "plain"));
    let who = "for host \"192.0.2.1\", user \"ann\", database \"shop\", no encryption";
    assert_eq!(told("ann", &clear), format!("28000: no pg_hba.conf entry {who}"));
    let who = "for host \"192.0.2.1\", user \"eve\", database \"shop\", SSL encryption";
    assert_eq!(told("eve", &tls(None)), format!("28000: pg_hba.conf rejects connection {who}"));
    let none = AuthConfig { rules: Vec::new(), ..auth };
    let report = rule_for(&none, "shop", "ann", &Peer::unix()).expect_err("no rule");
    assert!(report.message.starts_with("no pg_hba.conf entry for host \"[local]\", user"), "{report}");
}

/// Bytes that are nearly SCRAM, nearly a password message, or anything.
fn arb_message() -> impl Strategy<Value = Vec<u8>> {
    let attributes = prop::collection::vec("[a-z,=]{0,3}|n,,n=,r=[a-z]{0,5}|c=biws|p=[A-Za-z0-9+/=]{0,50}|r=.{0,9}", 0..5);
    let scram = attributes.prop_map(|parts| parts.join(",").into_bytes());
    prop_oneof![
        scram.clone().prop_map(|message| initial("SCRAM-SHA-256", &message)),
        scram.clone().prop_map(|message| initial("SCRAM-SHA-256-PLUS", &message)),
        scram,
        prop::collection::vec(any::<u8>(), 0..60),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is sent, nobody is let in without the password, and the exchange ends.
    #[test]
    fn no_bytes_let_anyone_in(messages in prop::collection::vec(arb_message(), 1..5), method_idx in 0..3_usize, is_tls: bool) {
        let peer = if is_tls { tls(None) } else { Peer::unix() };
        let case = Case { peer, ..Case::new(AuthMethod::ALL[method_idx], Some(UserSecret::Scram(cheap_verifier()))) };
        let mut authenticator = case.start();
        let mut last = step(&mut authenticator, AuthInput::Begin);
        for message in &messages {
            last = match last {
                AuthStep::Send(_) => step(&mut authenticator, AuthInput::Message(message)),
                end => end,
            };
        }
        prop_assert!(matches!(last, AuthStep::Send(_) | AuthStep::Fail(_)), "{last:?}");
        if messages.len() > 3 {
            prop_assert!(matches!(last, AuthStep::Fail(_)), "{last:?}");
        }
    }
}

/// A secret of one iteration.
fn cheap_verifier() -> Verifier {
    let salting = Salting { salt: vec![1; 16], iterations: std::num::NonZeroU32::MIN };
    Verifier::of_salted(salting.clone(), &salting.stretch(b"a password that nothing guesses"))
}

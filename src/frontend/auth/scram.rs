//! SCRAM-SHA-256 and, over TLS, SCRAM-SHA-256-PLUS.

use bytes::Bytes;
use pgwire::api::auth::sasl::scram::random_nonce;
use pgwire::messages::startup::Authentication;

use super::{AuthInput, Proof, Subject, Turn, salting_of, unknown_verifier, violation};
use crate::config::UserSecret;
use crate::session::scram::{Challenge, Mechanism, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Verifier, challenge};
use crate::sqlstate::Report;

#[derive(Debug)]
pub(super) struct ScramLogin {
    /// Hash of the certificate that the client was shown; `None` without TLS.
    end_point: Option<Vec<u8>>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The mechanisms are not offered yet.
    Unoffered,
    /// The user's plain password is stretched.
    Stretching,
    /// Waiting for SASLInitialResponse.
    Offered(Verifier),
    /// The client chose a mechanism without a first message of its own, and was asked for it.
    Chosen(Verifier, Mechanism),
    /// Waiting for client-final-message.
    Challenged(Challenge),
}

type Outcome = Result<Turn<Box<ScramLogin>>, Report>;

impl ScramLogin {
    pub(super) fn new(end_point: Option<Vec<u8>>) -> Self {
        Self { end_point, phase: Phase::Unoffered }
    }

    pub(super) fn step(self, subject: &Subject<'_>, input: AuthInput<'_>) -> Outcome {
        let Self { end_point, phase } = self;
        match (phase, input) {
            (Phase::Unoffered, AuthInput::Begin) => begin(end_point, subject),
            (Phase::Stretching, AuthInput::Stretched(salted)) => {
                let derived = Verifier::of_salted(salting_of(subject.user), &salted);
                let verifier = match subject.known {
                    Some(known) => known.remember(derived).clone(),
                    None => derived,
                };
                Ok(offer(end_point, verifier))
            }
            (Phase::Offered(verifier), AuthInput::Message(payload)) => on_initial(end_point, verifier, payload),
            (Phase::Chosen(verifier, mechanism), AuthInput::Message(message)) => {
                on_client_first(end_point, verifier, mechanism, message)
            }
            (Phase::Challenged(waiting), AuthInput::Message(message)) => {
                let proven = waiting.verify(message)?.ok_or_else(|| subject.wrong_password())?;
                Ok(Turn::Proven(Some(Authentication::SASLFinal(proven.server_final.into())), Proof::Keys(proven.keys)))
            }
            (_, _) => Err(violation("unexpected message in authentication")),
        }
    }
}

fn begin(end_point: Option<Vec<u8>>, subject: &Subject<'_>) -> Outcome {
    let known = subject.known;
    if let Some(verifier) = known.and_then(|known| known.verifier()) {
        return Ok(offer(end_point, verifier.clone()));
    }
    if let Some(UserSecret::Password(password)) = known.map(|known| &known.secret) {
        let next = Box::new(ScramLogin { end_point, phase: Phase::Stretching });
        return Ok(Turn::Stretch(salting_of(subject.user), password.clone().into_bytes(), next));
    }
    Ok(offer(end_point, unknown_verifier(salting_of(subject.user))))
}

fn offer(end_point: Option<Vec<u8>>, verifier: Verifier) -> Turn<Box<ScramLogin>> {
    // The one that Postgres would rather have comes first.
    let plus = end_point.is_some().then_some(SCRAM_SHA_256_PLUS);
    let mechanisms = plus.into_iter().chain([SCRAM_SHA_256]).map(str::to_owned).collect();
    Turn::Send(Authentication::SASL(mechanisms), Box::new(ScramLogin { end_point, phase: Phase::Offered(verifier) }))
}

fn on_initial(end_point: Option<Vec<u8>>, verifier: Verifier, payload: &[u8]) -> Outcome {
    let initial = SaslInitial::decode(payload)?;
    let mechanism = match initial.mechanism {
        name if name == SCRAM_SHA_256.as_bytes() => Mechanism::Unbound,
        name if name == SCRAM_SHA_256_PLUS.as_bytes() && end_point.is_some() => Mechanism::Bound,
        _ => return Err(violation("client selected an invalid SASL authentication mechanism")),
    };
    let Some(message) = initial.message else {
        let next = ScramLogin { end_point, phase: Phase::Chosen(verifier, mechanism) };
        return Ok(Turn::Send(Authentication::SASLContinue(Bytes::new()), Box::new(next)));
    };
    on_client_first(end_point, verifier, mechanism, message)
}

fn on_client_first(end_point: Option<Vec<u8>>, verifier: Verifier, mechanism: Mechanism, message: &[u8]) -> Outcome {
    let (server_first, waiting) = challenge(message, mechanism, end_point.as_deref(), verifier, &random_nonce())?;
    let next = ScramLogin { end_point, phase: Phase::Challenged(waiting) };
    Ok(Turn::Send(Authentication::SASLContinue(server_first.into()), Box::new(next)))
}

/// The body of SASLInitialResponse. pgwire's own decoder takes its lengths on trust.
struct SaslInitial<'a> {
    mechanism: &'a [u8],
    message: Option<&'a [u8]>,
}

impl<'a> SaslInitial<'a> {
    fn decode(payload: &'a [u8]) -> Result<Self, Report> {
        let end = payload.iter().position(|byte| *byte == 0).ok_or_else(|| violation("invalid string in message"))?;
        let (mechanism, rest) = (&payload[..end], &payload[end + 1..]);
        let short = || violation("insufficient data left in message");
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let length = i32::from_be_bytes(*length);
        let (message, rest) = match usize::try_from(length) {
            Ok(length) => {
                let (message, rest) = rest.split_at_checked(length).ok_or_else(short)?;
                (Some(message), rest)
            }
            Err(_) if length == -1 => (None, rest),
            Err(_) => return Err(short()),
        };
        if rest.is_empty() { Ok(Self { mechanism, message }) } else { Err(violation("invalid message format")) }
    }
}

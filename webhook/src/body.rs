//! Reads the bodies of requests. Incomplete requests do not use up the capacity for complete ones: each client address,
//! and all together, have a limit of incomplete bodies, above which the oldest are dropped.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Maximum pause in a body.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies up to this size do not count. Reviews have 3 to 10 KB.
const SMALL: usize = 64 * 1024;
/// Maximum number of incomplete bodies per address. All reviews may come from one address, and are complete within a
/// millisecond.
const MAX_BODIES_PER_ADDRESS: usize = 64;
/// Maximum bytes of the larger incomplete bodies per address.
const MAX_BYTES_PER_ADDRESS: usize = 16 * 1024 * 1024;
/// Maximum bytes of the larger incomplete bodies of all addresses.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Incomplete bodies.
#[derive(Debug, Clone, Default)]
pub struct Incomplete(Arc<Mutex<Bodies>>);

#[derive(Debug, Default)]
struct Bodies {
    /// By number, the oldest first.
    bodies: BTreeMap<u64, Body>,
    begun: u64,
}

#[derive(Debug)]
struct Body {
    address: IpAddr,
    /// Its bytes, if it is not small.
    bytes: usize,
    given_up: Arc<Notify>,
}

/// An incomplete body, until dropped.
struct PendingBody {
    all: Incomplete,
    number: u64,
    /// Notified when it is dropped for a newer one.
    given_up: Arc<Notify>,
}

impl Incomplete {
    /// Registers a body of that address. If it has too many incomplete ones, the oldest is dropped.
    fn begin(&self, address: IpAddr) -> PendingBody {
        let mut all = self.0.lock();
        let of_one = all.bodies.iter().filter(|(_, body)| body.address == address);
        if of_one.clone().count() >= MAX_BODIES_PER_ADDRESS
            && let Some(oldest) = of_one.map(|(number, _)| *number).next()
        {
            all.give_up(oldest);
        }
        all.begun += 1;
        let (number, given_up) = (all.begun, Arc::new(Notify::new()));
        let body = Body {
            address,
            bytes: 0,
            given_up: Arc::clone(&given_up),
        };
        all.bodies.insert(number, body);
        drop(all);
        PendingBody {
            all: self.clone(),
            number,
            given_up,
        }
    }
}

impl Bodies {
    fn give_up(&mut self, number: u64) {
        if let Some(body) = self.bodies.remove(&number) {
            body.given_up.notify_one();
        }
    }

    /// The address whose large bodies exceed its limit, or the largest one if all together exceed theirs.
    fn over(&self, newest: IpAddr) -> Option<IpAddr> {
        let mut of: HashMap<IpAddr, usize> = HashMap::new();
        for body in self.bodies.values() {
            *of.entry(body.address).or_default() += body.bytes;
        }
        if of
            .get(&newest)
            .is_some_and(|bytes| *bytes > MAX_BYTES_PER_ADDRESS)
        {
            return Some(newest);
        }
        let over = of.values().sum::<usize>() > MAX_BYTES;
        of.into_iter()
            .max_by_key(|(_, bytes)| *bytes)
            .map(|(address, _)| address)
            .filter(|_| over)
    }

    fn oldest_large(&self, address: IpAddr) -> Option<u64> {
        let mut large = self.bodies.iter().filter(|(_, body)| body.bytes > 0);
        large
            .find(|(_, body)| body.address == address)
            .map(|(number, _)| *number)
    }
}

impl PendingBody {
    /// Updates the size of the body. Older ones are dropped if that is too much.
    fn grows_to(&self, bytes: usize) {
        if bytes <= SMALL {
            return;
        }
        let mut all = self.all.0.lock();
        let Some(body) = all.bodies.get_mut(&self.number) else {
            return;
        };
        body.bytes = bytes;
        let address = body.address;
        while let Some(oldest) = all.over(address).and_then(|over| all.oldest_large(over)) {
            all.give_up(oldest);
        }
    }
}

impl Drop for PendingBody {
    fn drop(&mut self) {
        self.all.0.lock().bodies.remove(&self.number);
    }
}

/// The complete body of a JSON request from that address: 415 for another content type, 413 for a too large body, 408
/// for a too slow one, 429 for one that was dropped for a newer one.
pub async fn json(
    request: Request,
    limit: usize,
    address: IpAddr,
    incomplete: &Incomplete,
) -> Result<Bytes, Response> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if !content_type.is_some_and(is_json) {
        return Err(refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the content type must be application/json",
        ));
    }
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large(limit));
    }
    let held = incomplete.begin(address);
    let end = Instant::now() + BODY_TIMEOUT;
    let (mut stream, mut body) = (request.into_body(), BytesMut::new());
    loop {
        let pause = Instant::now() + IDLE_TIMEOUT;
        let frame = tokio::select! {
            // Available data is read first.
            biased;
            frame = timeout_at(end.min(pause), stream.frame()) => frame,
            () = held.given_up.notified() => {
                let why = "too many unfinished requests from this address";
                return Err(refused(StatusCode::TOO_MANY_REQUESTS, why));
            }
        };
        let frame = match frame {
            Err(_) => {
                return Err(refused(
                    StatusCode::REQUEST_TIMEOUT,
                    "the body arrived too slowly",
                ));
            }
            Ok(None) => return Ok(body.freeze()),
            Ok(Some(Err(_))) => return Err(refused(StatusCode::BAD_REQUEST, "the body ended early")),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(chunk) = frame.into_data() else { continue };
        if body.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        held.grows_to(body.len() + chunk.len());
        body.extend_from_slice(&chunk);
    }
}

fn refused(status: StatusCode, why: &'static str) -> Response {
    (status, why).into_response()
}

fn too_large(limit: usize) -> Response {
    let why = format!("the body has more than {limit} bytes");
    (StatusCode::PAYLOAD_TOO_LARGE, why).into_response()
}

/// `application/json`, with whatever parameters.
fn is_json(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    value[..end]
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rstest::rstest;

    use super::*;

    const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    #[rstest]
    #[case("application/json", true)]
    #[case("Application/JSON; charset=utf-8", true)]
    #[case("application/json ;q=1", true)]
    #[case("application/jsonp", false)]
    #[case("text/plain; application/json", false)]
    #[case("", false)]
    fn json_is_json_with_whatever_parameters(#[case] value: &str, #[case] want: bool) {
        assert_eq!(is_json(&HeaderValue::from_str(value).unwrap()), want);
    }

    fn is_given_up(held: &PendingBody) -> bool {
        !held.all.0.lock().bodies.contains_key(&held.number)
    }

    #[test]
    fn the_oldest_of_too_many_incomplete_bodies_of_an_address_is_given_up() {
        let incomplete = Incomplete::default();
        let other = incomplete.begin(OTHER);
        let of_one: Vec<_> = (0..=MAX_BODIES_PER_ADDRESS)
            .map(|_| incomplete.begin(ONE))
            .collect();
        let given_up: Vec<bool> = of_one.iter().map(is_given_up).collect();
        assert!(given_up[0] && !given_up[1..].contains(&true) && !is_given_up(&other));
        drop((of_one, other));
        assert!(incomplete.0.lock().bodies.is_empty());
    }

    #[test]
    fn large_bodies_make_room_for_younger_ones_of_their_address_and_then_those_of_who_holds_the_most() {
        let incomplete = Incomplete::default();
        let large = |address, bytes| {
            let held = incomplete.begin(address);
            held.grows_to(bytes);
            held
        };
        let small = large(ONE, SMALL);
        let first = large(ONE, MAX_BYTES_PER_ADDRESS);
        let second = large(ONE, SMALL + 1);
        assert!(is_given_up(&first) && !is_given_up(&second) && !is_given_up(&small));

        let others: Vec<_> = (10..14u8)
            .map(|n| large(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)), MAX_BYTES_PER_ADDRESS))
            .collect();
        assert_eq!(others.iter().filter(|held| is_given_up(held)).count(), 1);
        assert!(!is_given_up(&second));
    }
}

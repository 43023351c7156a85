//! A list and a watch of one kind, from a server that sends arbitrary bytes between valid objects, and splits chunks anywhere.

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::client::Body;
use kube::core::WatchEvent;
use kube::{Api, Client, Resource};
use machinist_infra::cache::reflect::follow;
use machinist_infra::cache::store::{Key, Store};
use machinist_infra::kube::answer::AnswerLimits;
use serde::de::DeserializeOwned;
use tower::{BoxError, ServiceBuilder, service_fn};

/// The type that is decoded from the answers.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Kind for K {}

/// The nesting of JSON up to which nothing is pruned.
const SHALLOW: usize = 100;
/// The limit of a list: 16 MiB, the same again of pruned nesting, and the last chunk.
const PAGE_BYTES: usize = 2 * 16 * 1024 * 1024 + FILLER;
/// The chunks of an answer that does not end.
const FILLER: usize = 64 * 1024;
/// Chooses an answer that does not end.
const ENDLESS: u8 = 0xff;

/// A body that has so many bytes in a chunk.
pub type Chunks = BoxStream<'static, Result<Frame<Bytes>, io::Error>>;

/// Lengths of chunks, of which `how` chooses one.
pub fn chunks(text: &[u8], how: u8) -> Vec<Bytes> {
    const LENGTHS: [usize; 8] = [1, 2, 3, 7, 13, 64, 1000, 1 << 20];
    let length = LENGTHS[usize::from(how) % LENGTHS.len()];
    text.chunks(length).map(Bytes::copy_from_slice).collect()
}

/// A client of a server that gives these answers, one after the other, and then none; `pulled` is the most that was read of one.
pub fn client(limits: AnswerLimits, answers: Vec<(u16, Chunks)>, pulled: &Arc<AtomicUsize>) -> Client {
    let (answers, pulled) = (Arc::new(Mutex::new(VecDeque::from(answers))), Arc::clone(pulled));
    let answer = move |_: Request<Body>| {
        let next = answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let (status, body) = next.unwrap_or_else(|| (503, stream::empty().boxed()));
        let (pulled, mut read) = (Arc::clone(&pulled), 0);
        let body = body.inspect(move |frame| {
            let chunk = frame.as_ref().ok().and_then(Frame::data_ref);
            read += chunk.map_or(0, Bytes::len);
            pulled.fetch_max(read, Ordering::Relaxed);
        });
        let answer = Response::builder().status(status).body(StreamBody::new(body));
        async move { answer.map_err(|error| -> BoxError { error.into() }) }
    };
    let service = ServiceBuilder::new().layer(limits).service(service_fn(answer));
    Client::new(service, "default")
}

/// Runs it on this thread's runtime, which has timers.
///
/// # Panics
/// If there is no runtime.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap_or_else(|error| panic!("no runtime: {error}"));
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// One input: any bytes beside good objects, which have `beside` after their metadata.
///
/// # Panics
/// If a good object is not delivered, or something is that cannot be read; if an answer is read on that has no end.
pub fn run<K: Kind>(limits: AnswerLimits, beside: &str, how: u8, any: &[u8]) {
    let pulled = Arc::new(AtomicUsize::new(0));
    if how == ENDLESS {
        listed::<K>(limits, vec![(200, endless(any))], &pulled);
        let pulled = pulled.load(Ordering::Relaxed);
        assert!(
            pulled <= PAGE_BYTES,
            "{pulled} bytes of an endless list were read"
        );
        return;
    }
    let names = names(any);
    let good = |name: &str| {
        let metadata = format!(r#"{{"name":"{name}","namespace":"ns","uid":"u","resourceVersion":"5"}}"#);
        format!(r#"{{"metadata":{metadata}{beside}}}"#)
    };
    let groups = groups(any);
    let item = match &groups {
        Some(_) => [any, b","].concat(),
        None => Vec::new(),
    };
    let page = [
        br#"{"kind":"List","metadata":{"resourceVersion":"7"},"items":["#,
        good(&names[0]).as_bytes(),
        b",",
        &item,
        good(&names[1]).as_bytes(),
        b"]}",
    ]
    .concat();
    let event = |object: &[u8]| [br#"{"type":"MODIFIED","object":"#, object, b"}\n"].concat();
    let line: Vec<u8> = any
        .iter()
        .map(|byte| if *byte == b'\n' { b' ' } else { *byte })
        .collect();
    let wrapped = event(&line);
    let lines = [
        &event(good(&names[2]).as_bytes())[..],
        any,
        b"\n",
        &wrapped,
        &event(good(&names[3]).as_bytes()),
    ]
    .concat();
    let broken = stream::once(async { Err(io::Error::other("the end")) });
    let watch = frames(&lines, how).chain(broken).boxed();
    let answers = vec![(200, frames(&page, how)), (200, watch)];
    let found = listed::<K>(limits, answers, &pulled);

    // An error from the server ends a watch; its type may be written with escapes.
    let ends = [&b"ERROR"[..], b"\\u"]
        .iter()
        .any(|text| any.windows(text.len()).any(|part| part == *text));
    let due = if ends { 3 } else { 4 };
    for name in &names[..due] {
        assert!(
            found.iter().any(|key| key.name == *name),
            "{name} is hidden: {found:?}"
        );
    }
    if depth(any) > SHALLOW {
        return;
    }
    let objects = groups.into_iter().flatten();
    let objects = objects.filter_map(|json| Some(Key::of(&serde_json::from_slice::<K>(json).ok()?)));
    let mut readable: HashSet<Key> = objects.collect();
    let events = any.split(|byte| *byte == b'\n').chain([&wrapped[..]]);
    readable.extend(
        events.filter_map(|json| match serde_json::from_slice(json).ok()? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => Some(Key::of::<K>(&object)),
            _ => None,
        }),
    );
    for key in found.iter().filter(|key| !names.contains(&key.name)) {
        assert!(readable.contains(key), "{key} cannot be read, and was delivered");
    }
}

/// The objects in the store at the end.
fn listed<K: Kind>(
    limits: AnswerLimits,
    answers: Vec<(u16, Chunks)>,
    pulled: &Arc<AtomicUsize>,
) -> HashSet<Key> {
    block_on(async {
        let client = client(limits, answers, pulled);
        let store = Store::<K>::new(|_| Vec::new());
        // What only begins with a list ends, too.
        let taken = |event| drop(store.apply(event));
        let ended = follow(Api::all(client), taken).boxed().await;
        assert!(ended.is_some(), "it goes on");
        store
            .all()
            .iter()
            .map(|object| Key::of(object.as_ref()))
            .collect()
    })
}

fn frames(text: &[u8], how: u8) -> Chunks {
    let frames = chunks(text, how).into_iter().map(|chunk| Ok(Frame::data(chunk)));
    stream::iter(frames).boxed()
}

/// A list that begins with an object of that beginning, and never ends.
fn endless(any: &[u8]) -> Chunks {
    let begin = [br#"{"metadata":{"resourceVersion":"7"},"items":["#, any].concat();
    let filler = Bytes::from(vec![any.last().copied().unwrap_or(b'['); FILLER]);
    let filler = stream::repeat(filler).map(|chunk| Ok(Frame::data(chunk)));
    stream::iter([Ok(Frame::data(Bytes::from(begin)))])
        .chain(filler)
        .boxed()
}

/// Names that no input has for its own objects: they are made of it.
fn names(any: &[u8]) -> [String; 4] {
    // FNV-1a.
    let hash = any.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    std::array::from_fn(|n| format!("good-{n}-{hash:016x}"))
}

/// How nested it is at most.
fn depth(any: &[u8]) -> usize {
    any.iter().filter(|byte| matches!(byte, b'{' | b'[')).count()
}

/// The objects and arrays in it, if it leaves whatever it is put into where that was: its strings and brackets end.
fn groups(any: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut groups, mut depth, mut from) = (Vec::new(), 0_usize, 0);
    let (mut inside, mut escaped) = (false, false);
    for (at, byte) in any.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            _ if inside => {}
            b'{' | b'[' => {
                if depth == 0 {
                    from = at;
                }
                depth += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    groups.push(&any[from..=at]);
                }
            }
            _ => {}
        }
    }
    (depth == 0 && !inside).then_some(groups)
}

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::probe::Served;
use crate::root::{Bundle, Root};
use crate::{Authority, ServingCertificate};

const DAY: Duration = Duration::from_hours(24);
const MINUTE: Duration = Duration::from_mins(1);
const NAME: &str = "machinist-webhook.machinist-system.svc";

fn start() -> SystemTime {
    UNIX_EPOCH + 20_000 * DAY
}

fn policy() -> Policy {
    Policy {
        names: vec![NAME.to_owned(), "10.0.0.1".to_owned()],
        authority_lifetime: 365 * DAY,
        leaf_lifetime: 90 * DAY,
        overlap: 5 * MINUTE,
    }
}

/// Three authorities made at the same time, each with a certificate that it signed.
static WORLD: LazyLock<Vec<(Authority, ServingCertificate)>> = LazyLock::new(|| {
    let one = |name| {
        let authority = Authority::new(name, start(), policy().authority_lifetime).unwrap();
        let names: Vec<&str> = ["10.0.0.1", NAME].to_vec();
        let leaf = authority.issue(&names, start(), policy().leaf_lifetime).unwrap();
        (authority, leaf)
    };
    ["a", "b", "c"].map(one).into()
});

fn root(index: usize) -> Root {
    WORLD[index].0.root().clone()
}

fn signer(index: usize) -> SecretState<Signer> {
    let authority = &WORLD[index].0;
    Signer::read(
        authority.root().pem().as_bytes(),
        authority.key().as_bytes(),
        false,
    )
}

fn serving_at(index: usize, now: SystemTime) -> SecretState<Serving> {
    let (authority, leaf) = &WORLD[index];
    let pem = authority.root().pem();
    let data = [&leaf.certificate, &leaf.key, &pem].map(String::as_bytes);
    Serving::read("n/s", data, false, now)
}

fn serving(index: usize) -> SecretState<Serving> {
    serving_at(index, start())
}

fn der(index: usize) -> Vec<u8> {
    match serving(index) {
        SecretState::Usable(serving) => serving.leaf,
        other => panic!("{other:?}"),
    }
}

fn bundle(roots: &[usize]) -> Bundle {
    Bundle {
        roots: roots.iter().map(|index| root(*index)).collect(),
        has_invalid: false,
    }
}

/// Authority `a` has been trusted and served for a day.
fn settled() -> Observed {
    Observed {
        now: start() + DAY,
        signer: signer(0),
        serving: serving(0),
        bundles: vec![bundle(&[0]), bundle(&[0])],
        replicas: None,
        since: Since {
            trusted: Some(start()),
            issued: Some(start()),
        },
    }
}

/// Authority `b` took the place of `a` a day ago, and all that was to be waited for has been.
fn rotated() -> Observed {
    Observed {
        signer: signer(1),
        bundles: vec![bundle(&[0, 1]); 2],
        replicas: Some(vec![Served::Certificate(der(0)); 2]),
        ..settled()
    }
}

fn trust(roots: &[usize]) -> Action {
    Action::Trust(bundle(roots).roots)
}

fn short(plan: &Plan) -> Vec<String> {
    let name = |action: &Action| match action {
        Action::NewAuthority(cause) => format!("new authority: {cause}"),
        Action::Trust(roots) => format!(
            "trust {}",
            roots
                .iter()
                .map(Root::name)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<String>()
        ),
        Action::Issue(cause) => format!("issue: {cause}"),
    };
    plan.actions.iter().map(name).collect()
}

#[rstest]
#[case::nothing_is_there_yet(
    Observed { signer: SecretState::Absent, serving: SecretState::Absent, bundles: vec![bundle(&[])], ..settled() },
    &["new authority: it did not exist"]
)]
#[case::a_fresh_install_waits_for_nothing(
    Observed { serving: SecretState::Absent, bundles: vec![bundle(&[]); 2], since: Since::default(), ..settled() },
    &["trust a", "issue: it did not exist"]
)]
#[case::all_is_well(settled(), &[])]
#[case::a_serving_certificate_is_renewed_after_two_thirds_of_its_life(
    Observed { now: start() + 60 * DAY, ..settled() }, &["issue: two thirds of its lifetime have passed"]
)]
#[case::and_not_before(Observed { now: start() + 60 * DAY - MINUTE, ..settled() }, &[])]
#[case::so_is_an_authority(
    Observed { now: start() + 244 * DAY, ..settled() }, &["new authority: two thirds of its lifetime have passed"]
)]
#[case::an_authority_of_a_clock_that_was_wrong(
    Observed { now: start() - 2 * DAY, serving: SecretState::Absent, ..settled() },
    &["new authority: the existing one is not valid yet"]
)]
#[case::a_certificate_that_has_expired(
    Observed { now: start() + 91 * DAY, serving: serving_at(0, start() + 91 * DAY), ..settled() },
    &["issue: the existing one is not usable: the certificate in tls.crt of the Secret n/s is valid from Oct  3 23:00:00 2024 +00:00 to Jan  2 00:00:00 2025 +00:00 only; renew it, or fix the clock"]
)]
#[case::a_deleted_certificate_is_issued_again_immediately(
    Observed { serving: SecretState::Absent, since: Since::default(), ..settled() }, &["issue: it did not exist"]
)]
#[case::a_ca_bundle_that_was_emptied(Observed { bundles: vec![bundle(&[0]), bundle(&[])], ..settled() }, &["trust a"])]
#[case::litter_in_a_ca_bundle(
    Observed { bundles: vec![Bundle { has_invalid: true, ..bundle(&[0]) }], ..settled() }, &["trust a"]
)]
#[case::a_foreign_root_leaves_the_ca_bundle_once_all_replicas_are_known_to_serve_ours(
    Observed { bundles: vec![bundle(&[0, 2])], replicas: Some(vec![Served::Certificate(der(0))]), ..settled() },
    &["trust a"]
)]
#[case::a_new_authority_is_trusted_before_it_signs(
    Observed { bundles: vec![bundle(&[0]); 2], since: Since { trusted: None, ..settled().since }, ..rotated() },
    &["trust ab"]
)]
#[case::in_one_configuration_only_is_not_everywhere(
    Observed { bundles: vec![bundle(&[0, 1]), bundle(&[0])], since: Since { trusted: None, ..settled().since }, ..rotated() },
    &["trust ab"]
)]
#[case::nor_does_it_sign_before_everybody_had_time_to_learn_of_it(
    Observed { since: Since { trusted: Some(start() + DAY - 4 * MINUTE), ..settled().since }, ..rotated() }, &[]
)]
#[case::then_it_signs(rotated(), &["issue: there is a new CA"])]
#[case::where_no_replica_serves_there_is_none_to_wait_for(
    Observed {
        serving: SecretState::Absent, replicas: Some(vec![Served::Nothing; 2]), since: Since { trusted: Some(start() + DAY), issued: None },
        ..rotated()
    },
    &["issue: it did not exist"]
)]
#[case::a_list_without_replicas_is_no_proof_that_none_serves(
    Observed { replicas: Some(vec![]), since: Since { trusted: Some(start() + DAY), ..settled().since }, ..rotated() }, &[]
)]
#[case::nor_that_none_serves_under_the_old_authority(
    Observed { serving: serving(1), replicas: Some(vec![]), ..rotated() }, &[]
)]
#[case::a_serving_secret_deleted_meanwhile_waits_for_those_who_serve_from_memory(
    Observed { serving: SecretState::Absent, since: Since { trusted: Some(start() + DAY), issued: None }, ..rotated() }, &[]
)]
#[case::an_old_authority_is_trusted_while_a_replica_serves_under_it(
    Observed {
        serving: serving(1), replicas: Some(vec![Served::Certificate(der(1)), Served::Certificate(der(0))]), ..rotated()
    },
    &[]
)]
#[case::and_while_one_does_not_answer(
    Observed { serving: serving(1), replicas: Some(vec![Served::Certificate(der(1)), Served::Unknown]), ..rotated() }, &[]
)]
#[case::and_while_the_replicas_are_unknown(Observed { serving: serving(1), replicas: None, ..rotated() }, &[])]
#[case::and_until_who_reads_the_secret_late_has_read_the_new_one(
    Observed {
        serving: serving(1), replicas: Some(vec![Served::Certificate(der(1))]),
        since: Since { issued: Some(start() + DAY - MINUTE), ..settled().since }, ..rotated()
    },
    &[]
)]
#[case::then_it_goes(
    Observed {
        serving: serving(1), replicas: Some(vec![Served::Certificate(der(1)), Served::Nothing]), ..rotated()
    },
    &["trust b"]
)]
#[case::the_authority_of_what_is_served_is_trusted_again_if_it_was_taken_out(
    Observed { bundles: vec![bundle(&[]); 2], since: Since { trusted: None, ..settled().since }, ..rotated() },
    &["trust ab"]
)]
#[case::the_secret_of_the_authority_is_foreign(Observed { signer: SecretState::Foreign, ..settled() }, &[])]
#[case::the_serving_secret_is_foreign(
    Observed { signer: SecretState::Absent, serving: SecretState::Foreign, ..settled() }, &[]
)]
#[case::no_client_would_trust_anything(Observed { signer: SecretState::Absent, bundles: vec![], ..settled() }, &[])]
fn it_is_decided(#[case] observed: Observed, #[case] want: &[&str]) {
    assert_eq!(short(&decide(&observed, &policy())), want);
}

#[rstest]
#[case::of_the_authority(true, "new authority: the annotation machinist.dev/rotate requested it")]
#[case::of_the_certificate(false, "issue: the annotation machinist.dev/rotate requested it")]
fn a_person_may_ask_for_a_rotation(#[case] of_authority: bool, #[case] want: &str) {
    let mut observed = settled();
    match (&mut observed.signer, &mut observed.serving) {
        (SecretState::Usable(signer), _) if of_authority => signer.rotate = true,
        (_, SecretState::Usable(serving)) => serving.rotate = true,
        _ => panic!("they are usable"),
    }
    assert_eq!(short(&decide(&observed, &policy())), [want]);
}

#[test]
fn another_name_is_another_certificate() {
    let policy = Policy {
        names: vec!["elsewhere.example.com".to_owned()],
        ..policy()
    };
    let want = "issue: it was not valid for the names of the webhook's Service";
    assert_eq!(short(&decide(&settled(), &policy)), [want]);
}

#[test]
fn it_is_reconciled_when_something_is_due() {
    let plan = decide(&settled(), &policy());
    assert_eq!(plan.requeue_after, settled().now + Duration::from_hours(1));
    let almost = start() + 60 * DAY - MINUTE;
    let plan = decide(
        &Observed {
            now: almost,
            ..settled()
        },
        &policy(),
    );
    assert_eq!(plan.requeue_after, almost + MINUTE);
    let waits = Observed {
        serving: serving(1),
        since: Since {
            issued: Some(rotated().now - 5 * MINUTE + Duration::from_secs(3)),
            ..rotated().since
        },
        ..rotated()
    };
    let plan = decide(&waits, &policy());
    assert_eq!(
        plan.requeue_after,
        waits.now + Duration::from_secs(3),
        "when it has lasted"
    );
    let plan = decide(
        &Observed {
            serving: serving(1),
            ..rotated()
        },
        &policy(),
    );
    assert_eq!(
        plan.requeue_after,
        rotated().now + Duration::from_secs(10),
        "while replicas are asked"
    );
}

#[test]
fn what_is_remembered_ends_with_the_first_break() {
    let mut memory = RotationState::default();
    let at = |minutes: u32| start() + minutes * MINUTE;
    let note = |memory: &mut RotationState, roots: &[usize], minutes| {
        memory.note(
            &signer(0),
            &serving(0),
            &[bundle(&[0]), bundle(roots)],
            at(minutes),
        )
    };
    assert_eq!(note(&mut memory, &[0], 0).trusted, Some(at(0)));
    assert_eq!(note(&mut memory, &[0, 1], 1).trusted, Some(at(0)));
    assert_eq!(note(&mut memory, &[1], 2).trusted, None);
    let since = note(&mut memory, &[0], 3);
    assert_eq!((since.trusted, since.issued), (Some(at(3)), Some(at(0))));
    let since = memory.note(&signer(0), &serving(1), &[bundle(&[0])], at(4));
    assert_eq!((since.trusted, since.issued), (Some(at(3)), Some(at(4))));
}

fn any_bundle() -> impl Strategy<Value = Bundle> {
    (prop::collection::vec(0..3_usize, 0..4), any::<bool>()).prop_map(|(roots, has_invalid)| Bundle {
        has_invalid,
        ..bundle(&roots)
    })
}

fn any_found<T: Clone + std::fmt::Debug + 'static>(
    usable: fn(usize) -> SecretState<T>,
) -> impl Strategy<Value = SecretState<T>> {
    prop_oneof![
        1 => Just(SecretState::Absent),
        1 => Just(SecretState::Foreign),
        1 => Just(SecretState::Unusable("broken".to_owned())),
        6 => (0..3_usize).prop_map(usable),
    ]
}

fn any_observed() -> impl Strategy<Value = Observed> {
    let replica = prop_oneof![
        4 => (0..3_usize).prop_map(|index| Served::Certificate(der(index))),
        1 => Just(Served::Nothing),
        1 => Just(Served::Unknown),
    ];
    let since = || prop::option::of((0..20_u32).prop_map(|minutes| start() + DAY - minutes * MINUTE));
    (
        any_found(signer),
        any_found(serving),
        prop::collection::vec(any_bundle(), 0..4),
        prop::option::of(prop::collection::vec(replica, 0..4)),
        (since(), since()),
    )
        .prop_map(
            |(signer, serving, bundles, replicas, (trusted, issued))| Observed {
                now: start() + DAY,
                signer,
                serving,
                bundles,
                replicas,
                since: Since { trusted, issued },
            },
        )
}

proptest! {
    /// No trust is taken back that a replica lives by, as far as replicas are known.
    #[test]
    fn who_is_trusted_by_a_bundle_stays_so(observed in any_observed()) {
        let plan = decide(&observed, &policy());
        for action in &plan.actions {
            let Action::Trust(wanted) = action else { continue };
            for served in observed.replicas.iter().flatten() {
                let Served::Certificate(leaf) = served else { continue };
                for bundle in &observed.bundles {
                    let before = crate::accepts(&bundle.roots, leaf, NAME, observed.now);
                    prop_assert!(!before || crate::accepts(wanted, leaf, NAME, observed.now));
                }
            }
            if observed.replicas.as_ref().is_none_or(Vec::is_empty) {
                let all = observed.bundles.iter().flat_map(|bundle| &bundle.roots);
                prop_assert!(all.into_iter().all(|root| wanted.contains(root)), "nothing is known, so nothing is taken out");
            }
        }
    }

    /// Only an authority in every bundle signs, and foreign objects are not touched.
    #[test]
    fn who_signs_is_trusted_first(observed in any_observed()) {
        let plan = decide(&observed, &policy());
        let foreign = observed.signer == SecretState::Foreign || observed.serving == SecretState::Foreign;
        prop_assert!(!(foreign || observed.bundles.is_empty()) || plan.actions.is_empty());
        let Some(position) = plan.actions.iter().position(|action| matches!(action, Action::Issue(_))) else {
            return Ok(());
        };
        let SecretState::Usable(signer) = &observed.signer else {
            return Err(TestCaseError::fail("no authority can sign"));
        };
        let everywhere = observed.bundles.iter().all(|bundle| bundle.roots.contains(&signer.root));
        let before = plan.actions[..position].iter().any(|action| matches!(action, Action::Trust(roots) if roots.contains(&signer.root)));
        prop_assert!(everywhere || before);
    }

    /// What was done is not done again.
    #[test]
    fn it_comes_to_rest(observed in any_observed()) {
        let plan = decide(&observed, &policy());
        prop_assert!(plan.requeue_after > observed.now);
        let mut after = observed;
        for action in plan.actions {
            match action {
                Action::NewAuthority(_) => after.signer = signer(0),
                Action::Trust(roots) => {
                    for bundle in &mut after.bundles {
                        *bundle = Bundle { roots: roots.clone(), has_invalid: false };
                    }
                }
                Action::Issue(_) => {
                    let SecretState::Usable(now) = &after.signer else { panic!("no authority can sign") };
                    let index = (0..3).find(|index| root(*index) == now.root).unwrap();
                    after.serving = serving(index);
                }
            }
        }
        // With the new authority, trust and issuing remain.
        let rest = decide(&after, &policy());
        prop_assert!(!rest.actions.iter().any(|action| matches!(action, Action::NewAuthority(_))));
        prop_assert_eq!(trust_again(&rest, &after), false);
    }
}

/// Whether what every bundle holds already would be written.
fn trust_again(plan: &Plan, observed: &Observed) -> bool {
    plan.actions.iter().any(|action| {
        let Action::Trust(roots) = action else {
            return false;
        };
        observed
            .bundles
            .iter()
            .all(|bundle| bundle.roots == *roots && !bundle.has_invalid)
    })
}

#[test]
fn trust_is_what_it_says() {
    assert_eq!(
        short(&Plan {
            actions: vec![trust(&[1, 0])],
            obstacle: None,
            requeue_after: start()
        }),
        ["trust ab"]
    );
}

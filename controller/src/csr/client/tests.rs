//! Real requests, and what forgers would make of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequestCondition, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use rcgen::{
    Attribute, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair,
    KeyUsagePurpose, SanType,
};
use rstest::rstest;

use x509_parser::prelude::FromDer as _;

use super::super::request::{der, node_of};
use super::*;

const NODE: &str = "system:node:worker-1";

/// A whole case that owns its parts, for tests to change.
struct Scene {
    request: CertificateSigningRequest,
    token: Option<TokenView>,
    machine: Option<MachineFacts<'static>>,
    now: Timestamp,
}

impl Scene {
    fn judge(&self) -> Verdict {
        judge(&Case {
            request: &self.request,
            token: self.token.as_ref().map(Binding::Secret),
            machine: self.machine,
            now: self.now,
        })
    }

    fn machine(&mut self) -> &mut MachineFacts<'static> {
        self.machine.as_mut().unwrap()
    }

    fn set_pem(&mut self, pem: impl Into<Vec<u8>>) {
        self.request.spec.request = ByteString(pem.into());
    }

    fn pem(&self) -> String {
        String::from_utf8(self.request.spec.request.0.clone()).unwrap()
    }

    fn set_usages(&mut self, usages: &[&str]) {
        self.request.spec.usages = Some(usages.iter().map(ToString::to_string).collect());
    }

    fn add_condition(&mut self, kind: &str) {
        let status = self.request.status.get_or_insert_default();
        status
            .conditions
            .get_or_insert_default()
            .push(CertificateSigningRequestCondition {
                type_: kind.to_owned(),
                status: "True".to_owned(),
                ..CertificateSigningRequestCondition::default()
            });
    }
}

/// The case as a process judges it that may not read Secrets.
fn judge_by_record(scene: &Scene, id: &str, machine_uid: &str) -> Verdict {
    judge(&Case {
        request: &scene.request,
        token: Some(Binding::Record { id, machine_uid }),
        machine: scene.machine,
        now: scene.now,
    })
}

#[test]
fn the_record_of_the_machine_binds_its_token_as_the_secret_does() {
    let mut scene = honest();
    assert_eq!(judge_by_record(&scene, "abcdef", "m1"), Verdict::Approve);
    for (id, machine_uid, why) in [("ghijkl", "m1", "abcdef"), ("abcdef", "m2", "UID m2")] {
        let verdict = judge_by_record(&scene, id, machine_uid);
        assert!(
            matches!(&verdict, Verdict::Refused(said) if said.contains(why)),
            "{verdict:?}"
        );
    }
    scene.machine().joined = true;
    let verdict = judge_by_record(&scene, "abcdef", "m1");
    assert!(
        matches!(&verdict, Verdict::Refused(said) if said.contains("joined")),
        "{verdict:?}"
    );
    let mut scene = honest();
    scene.machine().name = "worker-2";
    let verdict = judge_by_record(&scene, "abcdef", "m1");
    assert!(
        matches!(&verdict, Verdict::Refused(said) if said.contains("worker-2")),
        "{verdict:?}"
    );
}

fn at(time: &str) -> Timestamp {
    format!("2026-01-01T{time}Z").parse().unwrap()
}

/// The request of an honest kubelet of Machine worker-1, two minutes after its token was made.
fn honest() -> Scene {
    let spec = CertificateSigningRequestSpec {
        signer_name: "kubernetes.io/kube-apiserver-client-kubelet".to_owned(),
        username: Some("system:bootstrap:abcdef".to_owned()),
        groups: Some(vec![
            "system:bootstrappers".to_owned(),
            "system:bootstrappers:machinist:machine".to_owned(),
            "system:authenticated".to_owned(),
        ]),
        usages: Some(vec!["digital signature".to_owned(), "client auth".to_owned()]),
        request: ByteString(pem(&params(&subject(&["system:nodes"], &[NODE]))).into_bytes()),
        ..CertificateSigningRequestSpec::default()
    };
    Scene {
        request: CertificateSigningRequest {
            metadata: ObjectMeta {
                name: Some("node-csr-1".to_owned()),
                creation_timestamp: Some(Time(at("12:02:00"))),
                ..ObjectMeta::default()
            },
            spec,
            status: None,
        },
        token: Some(TokenView::for_test("abcdef", "m1", at("12:30:00"))),
        machine: Some(MachineFacts {
            name: "worker-1",
            uid: "m1",
            deleting: false,
            joined: false,
            node_is_foreign: false,
        }),
        now: at("12:02:01"),
    }
}

fn subject(organizations: &[&str], common_names: &[&str]) -> Vec<(DnType, String)> {
    let organizations = organizations
        .iter()
        .map(|o| (DnType::OrganizationName, (*o).to_owned()));
    organizations
        .chain(
            common_names
                .iter()
                .map(|cn| (DnType::CommonName, (*cn).to_owned())),
        )
        .collect()
}

fn params(subject: &[(DnType, String)]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in subject {
        params
            .distinguished_name
            .push(kind.clone(), DnValue::Utf8String(value.clone()));
    }
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn pem(params: &CertificateParams) -> String {
    unix(&params.serialize_request(&key()).unwrap().pem().unwrap())
}

/// The lines end as Go writes them.
fn unix(pem: &str) -> String {
    pem.replace("\r\n", "\n")
}

fn wrap(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    )
}

fn with_subject(scene: &mut Scene, subject: &[(DnType, String)]) {
    scene.set_pem(pem(&params(subject)));
}

fn with_params(scene: &mut Scene, change: impl FnOnce(&mut CertificateParams)) {
    let mut params = params(&subject(&["system:nodes"], &[NODE]));
    change(&mut params);
    scene.set_pem(pem(&params));
}

fn with_san(scene: &mut Scene, san: SanType) {
    with_params(scene, |params| params.subject_alt_names.push(san));
}

/// A change of the signed bytes without a new signature: another node's name of the same length.
fn with_forged_name(scene: &mut Scene) {
    let mut der = der(scene.pem().as_bytes()).unwrap();
    let at = der.windows(8).position(|bytes| bytes == b"worker-1").unwrap();
    der[at + 7] = b'2';
    scene.machine().name = "worker-2";
    scene.set_pem(wrap(&der));
}

fn with_trailing_der(scene: &mut Scene) {
    let mut der = der(scene.pem().as_bytes()).unwrap();
    der.extend([0x05, 0x00]);
    scene.set_pem(wrap(&der));
}

fn with_challenge_password(scene: &mut Scene) {
    // PrintableString "pw" in a SET; the OID is PKCS #9's challengePassword.
    let attribute = Attribute {
        oid: &[1, 2, 840, 113_549, 1, 9, 7],
        values: vec![0x31, 0x04, 0x13, 0x02, b'p', b'w'],
    };
    let request = params(&subject(&["system:nodes"], &[NODE]));
    let request = request
        .serialize_request_with_attributes(&key(), vec![attribute])
        .unwrap();
    scene.set_pem(unix(&request.pem().unwrap()));
}

#[rstest]
#[case::as_kubelets_ask(|_: &mut Scene| ())]
#[case::with_an_rsa_kubelets_usages(|s: &mut Scene| s.set_usages(&["key encipherment", "client auth", "digital signature"]))]
#[case::with_the_key_usage_extension(|s: &mut Scene| with_params(s, |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]))]
#[case::in_the_very_second_of_the_token(|s: &mut Scene| s.request.metadata.creation_timestamp = Some(Time(at("12:00:00"))))]
#[case::in_the_last_second_of_the_token(|s: &mut Scene| s.now = at("12:29:59"))]
#[case::without_a_last_newline(|s: &mut Scene| { let pem = s.pem(); s.set_pem(pem.trim_end()); })]
#[case::with_the_name_before_the_organization(|s: &mut Scene| {
    let mut subject = subject(&["system:nodes"], &[NODE]);
    subject.reverse();
    with_subject(s, &subject);
})]
#[case::for_a_year(|s: &mut Scene| s.request.spec.expiration_seconds = Some(31_536_000))]
#[case::with_a_condition_of_another_kind(|s: &mut Scene| s.add_condition("Noted"))]
fn an_honest_request_is_approved(#[case] change: fn(&mut Scene)) {
    let mut scene = honest();
    change(&mut scene);
    assert_eq!(scene.judge(), Verdict::Approve);
}

#[rstest]
#[case::of_another_signer(|s: &mut Scene| s.request.spec.signer_name = "kubernetes.io/kubelet-serving".into())]
#[case::by_a_node_that_renews(|s: &mut Scene| s.request.spec.username = Some("system:node:worker-1".into()))]
#[case::by_no_user(|s: &mut Scene| s.request.spec.username = None)]
#[case::by_a_token_id_that_none_has(|s: &mut Scene| s.request.spec.username = Some("system:bootstrap:abcdef ".into()))]
#[case::with_a_token_of_another_group(|s: &mut Scene| s.request.spec.groups = Some(vec!["system:bootstrappers".into()]))]
#[case::with_a_group_that_only_begins_like_ours(|s: &mut Scene| s.request.spec.groups = Some(vec!["system:bootstrappers:machinist:machines".into()]))]
#[case::approved(|s: &mut Scene| s.add_condition("Approved"))]
#[case::denied(|s: &mut Scene| s.add_condition("Denied"))]
#[case::failed(|s: &mut Scene| s.add_condition("Failed"))]
#[case::issued(|s: &mut Scene| s.request.status.get_or_insert_default().certificate = Some(ByteString(b"x".to_vec())))]
fn a_request_that_is_not_ours_to_decide_is_left_alone(#[case] change: fn(&mut Scene)) {
    let mut scene = honest();
    change(&mut scene);
    assert_eq!(scene.judge(), Verdict::NotOurs);
    assert_eq!(token_id(&scene.request), None);
}

#[rstest]
// The token.
#[case::no_token(|s: &mut Scene| s.token = None, "does not exist")]
#[case::another_token(|s: &mut Scene| s.token = Some(TokenView::for_test("ghijkl", "m1", at("12:30:00"))), "does not exist")]
#[case::an_expired_token(|s: &mut Scene| s.now = at("12:30:00"), "expired")]
#[case::a_token_of_another_machine(|s: &mut Scene| s.token = Some(TokenView::for_test("abcdef", "m2", at("12:30:00"))), "UID m2")]
#[case::older_than_the_token(|s: &mut Scene| s.request.metadata.creation_timestamp = Some(Time(at("11:59:59"))), "older")]
#[case::of_unknown_age(|s: &mut Scene| s.request.metadata.creation_timestamp = None, "older")]
// The Machine.
#[case::no_machine(|s: &mut Scene| s.machine = None, "no Machine")]
#[case::a_machine_recreated(|s: &mut Scene| s.machine().uid = "m9", "no Machine")]
#[case::a_deleting_machine(|s: &mut Scene| s.machine().deleting = true, "being deleted")]
#[case::a_joined_machine(|s: &mut Scene| s.machine().joined = true, "joined already")]
#[case::a_foreign_node(|s: &mut Scene| s.machine().node_is_foreign = true, "does not belong")]
// The usages.
#[case::no_usages(|s: &mut Scene| s.request.spec.usages = None, "usages")]
#[case::no_client_auth(|s: &mut Scene| s.set_usages(&["digital signature", "key encipherment"]), "usages")]
#[case::server_auth_too(|s: &mut Scene| s.set_usages(&["digital signature", "client auth", "server auth"]), "usages")]
#[case::server_auth_instead(|s: &mut Scene| s.set_usages(&["digital signature", "server auth"]), "usages")]
#[case::cert_sign(|s: &mut Scene| s.set_usages(&["digital signature", "client auth", "cert sign"]), "usages")]
#[case::for_more_than_a_year(|s: &mut Scene| s.request.spec.expiration_seconds = Some(31_536_001), "a year")]
// The envelope.
#[case::too_large_to_be_kept(|s: &mut Scene| s.set_pem(""), "larger than 16 KiB")]
#[case::no_pem(|s: &mut Scene| s.set_pem([0x30, 0x03, 0xff]), "PEM")]
#[case::text_before(|s: &mut Scene| { let pem = s.pem(); s.set_pem(format!("hello\n{pem}")); }, "PEM")]
#[case::text_after(|s: &mut Scene| { let pem = s.pem(); s.set_pem(format!("{pem}x")); }, "PEM")]
#[case::another_newline_after(|s: &mut Scene| { let pem = s.pem(); s.set_pem(format!("{pem}\n")); }, "PEM")]
#[case::two_blocks(|s: &mut Scene| { let pem = s.pem(); s.set_pem(format!("{pem}{pem}")); }, "PEM")]
#[case::a_header(|s: &mut Scene| { let pem = s.pem(); s.set_pem(pem.replacen("-----\n", "-----\nA: b\n\n", 1)); }, "PEM")]
#[case::another_block_type(|s: &mut Scene| { let pem = s.pem(); s.set_pem(pem.replace("CERTIFICATE REQUEST", "CERTIFICATE")); }, "PEM")]
#[case::no_request_inside(|s: &mut Scene| s.set_pem(wrap(b"hello")), "PKCS #10")]
#[case::der_after_the_request(with_trailing_der, "after its end")]
#[case::a_forged_name(with_forged_name, "own key")]
// The subject.
#[case::another_node(|s: &mut Scene| with_subject(s, &subject(&["system:nodes"], &["system:node:worker-2"])), "bound to Machine worker-1")]
#[case::a_longer_name(|s: &mut Scene| with_subject(s, &subject(&["system:nodes"], &["system:node:worker-10"])), "bound to Machine worker-1")]
#[case::a_name_with_a_nul(|s: &mut Scene| with_subject(s, &subject(&["system:nodes"], &["system:node:worker-1\0"])), "bound to Machine worker-1")]
#[case::another_case(|s: &mut Scene| with_subject(s, &subject(&["system:nodes"], &["system:node:Worker-1"])), "bound to Machine worker-1")]
#[case::a_name_of_no_node(|s: &mut Scene| with_subject(s, &subject(&["system:nodes"], &["worker-1"])), "common name")]
#[case::no_name(|s: &mut Scene| with_subject(s, &subject(&["system:nodes"], &[])), "common name")]
#[case::no_organization(|s: &mut Scene| with_subject(s, &subject(&[], &[NODE])), "organization")]
#[case::masters(|s: &mut Scene| with_subject(s, &subject(&["system:masters"], &[NODE])), "organization")]
#[case::a_unit(|s: &mut Scene| {
    let mut subject = subject(&["system:nodes"], &[NODE]);
    subject.push((DnType::OrganizationalUnitName, "x".to_owned()));
    with_subject(s, &subject);
}, "subject has the attribute 2.5.4.11")]
// What else it asks for.
#[case::a_dns_name(|s: &mut Scene| with_san(s, SanType::DnsName("kubernetes".try_into().unwrap())), "2.5.29.17")]
#[case::an_ip_address(|s: &mut Scene| with_san(s, SanType::IpAddress("10.0.0.1".parse().unwrap())), "2.5.29.17")]
#[case::an_email_address(|s: &mut Scene| with_san(s, SanType::Rfc822Name("a@b.example".try_into().unwrap())), "e-mail")]
#[case::a_uri(|s: &mut Scene| with_san(s, SanType::URI("spiffe://a".try_into().unwrap())), "URI")]
#[case::to_be_a_ca(|s: &mut Scene| with_params(s, |p| p.custom_extensions.push(
    CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x03, 0x01, 0x01, 0xff]))), "2.5.29.19")]
#[case::a_challenge_password(with_challenge_password, "1.2.840.113549.1.9.7")]
fn a_request_that_breaks_a_rule_is_not_approved(#[case] change: fn(&mut Scene), #[case] why: &str) {
    let mut scene = honest();
    change(&mut scene);
    match scene.judge() {
        Verdict::Refused(reason) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// rcgen keeps one value of each kind, so these names are put together by hand.
#[test]
fn a_second_organization_or_name_is_one_too_many() {
    use x509_parser::x509::X509Name;
    let rdn = |oid: u8, value: &[u8]| {
        let length = u8::try_from(value.len()).unwrap();
        let mut bytes = vec![
            0x31,
            length + 9,
            0x30,
            length + 7,
            0x06,
            0x03,
            0x55,
            0x04,
            oid,
            0x0c,
            length,
        ];
        bytes.extend(value);
        bytes
    };
    let name = |rdns: &[Vec<u8>]| {
        let body = rdns.concat();
        let mut bytes = vec![0x30, u8::try_from(body.len()).unwrap()];
        bytes.extend(body);
        bytes
    };
    let (nodes, masters, node) = (
        rdn(10, b"system:nodes"),
        rdn(10, b"system:masters"),
        rdn(3, NODE.as_bytes()),
    );
    let of = |der: &[u8]| node_of(&X509Name::from_der(der).unwrap().1);
    assert_eq!(of(&name(&[nodes.clone(), node.clone()])).unwrap(), "worker-1");
    for two in [
        [nodes.clone(), masters.clone(), node.clone()],
        [nodes.clone(), nodes.clone(), node.clone()],
        [nodes, node.clone(), node],
    ] {
        assert!(of(&name(&two)).unwrap_err().contains("two"));
    }
}

#[test]
fn an_approval_keeps_the_request_and_names_the_machine() {
    let mut scene = honest();
    scene.add_condition("Noted");
    let approved = approval(&scene.request);
    assert_eq!(approved.spec, scene.request.spec);
    assert_eq!(approved.metadata, scene.request.metadata);
    let conditions = approved.status.as_ref().unwrap().conditions.as_ref().unwrap();
    assert_eq!(conditions.len(), 2);
    assert_eq!(
        (conditions[1].type_.as_str(), conditions[1].status.as_str()),
        ("Approved", "True")
    );
    assert_eq!(conditions[1].reason.as_deref(), Some("MachinistApproved"));
    assert!(
        conditions[1]
            .message
            .as_ref()
            .unwrap()
            .contains("Machine worker-1")
    );
    scene.request = approved;
    assert_eq!(scene.judge(), Verdict::NotOurs, "nothing is approved twice");
}

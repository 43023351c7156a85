//! Real requests, and what forgers would make of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequestCondition, CertificateSigningRequestSpec};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, KeyUsagePurpose, SanType,
};
use rstest::rstest;

use super::super::request::der;
use super::*;

/// A whole case that owns its parts, for tests to change.
struct Scene {
    request: CertificateSigningRequest,
    deleting: bool,
    node: NodeState,
    unseen: Option<&'static str>,
    addresses: Vec<String>,
    address_conflicts: Vec<Contested>,
}

impl Scene {
    fn judge(&self) -> Verdict {
        let seen = VmState::Seen {
            addresses: &self.addresses,
            address_conflicts: &self.address_conflicts,
        };
        judge(&Case {
            request: &self.request,
            machine: "worker-1",
            deleting: self.deleting,
            node: &self.node,
            vm: &self.unseen.map_or(seen, VmState::Unseen),
        })
    }

    fn spec(&mut self) -> &mut CertificateSigningRequestSpec {
        &mut self.request.spec
    }

    fn pem(&self) -> String {
        String::from_utf8(self.request.spec.request.0.clone()).unwrap()
    }

    fn set_pem(&mut self, pem: impl Into<Vec<u8>>) {
        self.request.spec.request = ByteString(pem.into());
    }

    fn set_usages(&mut self, usages: &[&str]) {
        self.request.spec.usages = Some(usages.iter().map(ToString::to_string).collect());
    }

    fn set_groups(&mut self, groups: &[&str]) {
        self.request.spec.groups = Some(groups.iter().map(ToString::to_string).collect());
    }

    fn with_params(&mut self, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = params("system:nodes", "system:node:worker-1");
        change(&mut params);
        self.set_pem(pem(&params));
    }

    fn with_san(&mut self, san: SanType) {
        self.with_params(|params| params.subject_alt_names.push(san));
    }

    fn with_sans(&mut self, sans: Vec<SanType>) {
        self.with_params(|params| params.subject_alt_names = sans);
    }

    fn add_condition(&mut self, kind: &str) {
        let status = self.request.status.get_or_insert_default();
        status
            .conditions
            .get_or_insert_default()
            .push(CertificateSigningRequestCondition {
                type_: kind.to_owned(),
                ..CertificateSigningRequestCondition::default()
            });
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn ip(address: &str) -> SanType {
    SanType::IpAddress(address.parse().unwrap())
}

/// What the kubelet of worker-1 asks for once it has registered.
fn params(organization: &str, common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in [
        (DnType::OrganizationName, organization),
        (DnType::CommonName, common_name),
    ] {
        params
            .distinguished_name
            .push(kind, DnValue::Utf8String(value.to_owned()));
    }
    params.subject_alt_names = vec![dns("worker-1"), ip("10.0.0.7")];
    params
}

fn pem(params: &CertificateParams) -> String {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    params
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap()
        .replace("\r\n", "\n")
}

fn wrap(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
}

fn honest() -> Scene {
    let texts = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect());
    let spec = CertificateSigningRequestSpec {
        signer_name: "kubernetes.io/kubelet-serving".to_owned(),
        username: Some("system:node:worker-1".to_owned()),
        groups: texts(&["system:nodes", "system:authenticated"]),
        usages: texts(&["digital signature", "server auth"]),
        request: ByteString(pem(&params("system:nodes", "system:node:worker-1")).into_bytes()),
        ..CertificateSigningRequestSpec::default()
    };
    Scene {
        request: CertificateSigningRequest {
            spec,
            ..CertificateSigningRequest::default()
        },
        deleting: false,
        node: NodeState::Linked,
        unseen: None,
        addresses: vec!["10.0.0.7".to_owned(), "fd00::7".to_owned()],
        address_conflicts: Vec::new(),
    }
}

/// A change of the signed bytes without a new signature: another address.
fn with_forged_address(scene: &mut Scene) {
    let mut der = der(scene.pem().as_bytes()).unwrap();
    let at = der.windows(4).position(|bytes| bytes == [10, 0, 0, 7]).unwrap();
    der[at + 3] = 8;
    scene.addresses = vec!["10.0.0.8".to_owned()];
    scene.set_pem(wrap(&der));
}

#[rstest]
#[case::as_kubelets_ask(|_: &mut Scene| ())]
#[case::with_an_rsa_kubelets_usages(|s: &mut Scene| s.set_usages(&["key encipherment", "server auth", "digital signature"]))]
#[case::with_the_key_usage_extension(|s: &mut Scene| s.with_params(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]))]
#[case::for_its_name_alone(|s: &mut Scene| s.with_sans(vec![dns("worker-1")]))]
#[case::for_its_name_before_the_vm_has_an_address(|s: &mut Scene| { s.with_sans(vec![dns("worker-1")]); s.addresses.clear(); })]
#[case::for_an_address_alone(|s: &mut Scene| s.with_sans(vec![ip("10.0.0.7")]))]
#[case::for_both_families(|s: &mut Scene| s.with_san(ip("fd00::7")))]
#[case::for_an_address_that_is_written_otherwise(|s: &mut Scene| { s.with_san(ip("fd00::7")); s.addresses[1] = "fd00:0:0:0::0007".to_owned(); })]
#[case::for_ipv4_inside_ipv6(|s: &mut Scene| s.with_san(ip("::ffff:10.0.0.7")))]
#[case::with_more_groups(|s: &mut Scene| s.set_groups(&["x", "system:authenticated", "system:nodes"]))]
#[case::for_a_year(|s: &mut Scene| s.spec().expiration_seconds = Some(31_536_000))]
#[case::while_another_address_of_the_vm_is_contested(|s: &mut Scene| s.address_conflicts = vec![Contested { address: "fd00::7".parse().unwrap(), by: "x".into() }])]
#[case::with_a_condition_of_another_kind(|s: &mut Scene| s.add_condition("Noted"))]
fn an_honest_request_is_approved(#[case] change: fn(&mut Scene)) {
    let mut scene = honest();
    change(&mut scene);
    assert_eq!(scene.judge(), Verdict::Approve);
}

#[rstest]
#[case::of_another_signer(|s: &mut Scene| s.spec().signer_name = "kubernetes.io/kube-apiserver-client-kubelet".into())]
#[case::of_the_legacy_signer(|s: &mut Scene| s.spec().signer_name = "kubernetes.io/legacy-unknown".into())]
#[case::by_another_node(|s: &mut Scene| s.spec().username = Some("system:node:worker-2".into()))]
#[case::by_a_node_without_a_name(|s: &mut Scene| s.spec().username = Some("system:node:".into()))]
#[case::by_an_admin(|s: &mut Scene| s.spec().username = Some("admin".into()))]
#[case::by_a_token(|s: &mut Scene| s.spec().username = Some("system:bootstrap:abcdef".into()))]
#[case::by_no_user(|s: &mut Scene| s.spec().username = None)]
#[case::approved(|s: &mut Scene| s.add_condition("Approved"))]
#[case::denied(|s: &mut Scene| s.add_condition("Denied"))]
#[case::failed(|s: &mut Scene| s.add_condition("Failed"))]
#[case::issued(|s: &mut Scene| s.request.status.get_or_insert_default().certificate = Some(ByteString(b"x".to_vec())))]
fn a_request_that_is_not_ours_to_decide_is_left_alone(#[case] change: fn(&mut Scene)) {
    let mut scene = honest();
    change(&mut scene);
    assert_eq!(scene.judge(), Verdict::NotOurs);
}

#[rstest]
// The requester.
#[case::no_groups(|s: &mut Scene| s.spec().groups = None, "group system:nodes")]
#[case::not_a_node(|s: &mut Scene| s.set_groups(&["system:authenticated"]), "group system:nodes")]
#[case::not_authenticated(|s: &mut Scene| s.set_groups(&["system:nodes", "x"]), "group system:authenticated")]
// The usages.
#[case::no_usages(|s: &mut Scene| s.spec().usages = None, "usages")]
#[case::no_server_auth(|s: &mut Scene| s.set_usages(&["digital signature", "key encipherment"]), "usages")]
#[case::no_digital_signature(|s: &mut Scene| s.set_usages(&["server auth"]), "usages")]
#[case::client_auth_too(|s: &mut Scene| s.set_usages(&["digital signature", "server auth", "client auth"]), "usages")]
#[case::client_auth_instead(|s: &mut Scene| s.set_usages(&["digital signature", "client auth"]), "usages")]
#[case::cert_sign(|s: &mut Scene| s.set_usages(&["digital signature", "server auth", "cert sign"]), "usages")]
#[case::for_more_than_a_year(|s: &mut Scene| s.spec().expiration_seconds = Some(31_536_001), "a year")]
// The envelope.
#[case::too_large_to_be_kept(|s: &mut Scene| s.set_pem(""), "larger than 16 KiB")]
#[case::text_before(|s: &mut Scene| { let pem = s.pem(); s.set_pem(format!("hello\n{pem}")); }, "PEM")]
#[case::trailing_bytes(|s: &mut Scene| { let pem = s.pem(); s.set_pem(format!("{pem}x")); }, "PEM")]
#[case::two_blocks(|s: &mut Scene| { let pem = s.pem(); s.set_pem(format!("{pem}{pem}")); }, "PEM")]
#[case::another_block_type(|s: &mut Scene| { let pem = s.pem(); s.set_pem(pem.replace("CERTIFICATE REQUEST", "CERTIFICATE")); }, "PEM")]
#[case::no_request_inside(|s: &mut Scene| s.set_pem(wrap(b"hello")), "PKCS #10")]
#[case::der_after_the_request(|s: &mut Scene| { let mut der = der(s.pem().as_bytes()).unwrap(); der.extend([5, 0]); s.set_pem(wrap(&der)); }, "after its end")]
#[case::a_forged_address(with_forged_address, "own key")]
// The subject.
#[case::another_common_name(|s: &mut Scene| s.set_pem(pem(&params("system:nodes", "system:node:worker-2"))), "common name")]
#[case::a_common_name_of_no_node(|s: &mut Scene| s.set_pem(pem(&params("system:nodes", "kubernetes"))), "common name")]
#[case::masters(|s: &mut Scene| s.set_pem(pem(&params("system:masters", "system:node:worker-1"))), "organization")]
#[case::a_unit(|s: &mut Scene| s.with_params(|p| p.distinguished_name.push(DnType::OrganizationalUnitName, "x")), "subject has the attribute")]
// The names.
#[case::no_names(|s: &mut Scene| s.with_sans(Vec::new()), "neither")]
#[case::another_nodes_name(|s: &mut Scene| s.with_san(dns("worker-2")), "DNS name")]
#[case::the_api_servers_name(|s: &mut Scene| s.with_san(dns("kubernetes.default.svc")), "DNS name")]
#[case::a_wildcard(|s: &mut Scene| s.with_san(dns("*.worker-1")), "DNS name")]
#[case::its_name_in_another_case(|s: &mut Scene| s.with_san(dns("Worker-1")), "DNS name")]
#[case::its_address_as_a_name(|s: &mut Scene| s.with_san(dns("10.0.0.7")), "DNS name")]
#[case::another_machines_address(|s: &mut Scene| s.with_san(ip("10.0.0.8")), "10.0.0.8, which is not the VM's: those are 10.0.0.7, fd00::7")]
#[case::loopback(|s: &mut Scene| s.with_san(ip("127.0.0.1")), "127.0.0.1")]
#[case::a_longer_ipv4_inside_ipv6(|s: &mut Scene| s.with_san(ip("::10.0.0.7")), "not the VM's")]
#[case::an_address_that_another_has_too(|s: &mut Scene| s.address_conflicts = vec![Contested { address: "10.0.0.7".parse().unwrap(), by: "Node cp-1".into() }], "Node cp-1 has, too")]
#[case::an_email_address(|s: &mut Scene| s.with_san(SanType::Rfc822Name("a@b.example".try_into().unwrap())), "e-mail")]
#[case::a_uri(|s: &mut Scene| s.with_san(SanType::URI("spiffe://a".try_into().unwrap())), "URI")]
#[case::a_name_of_another_kind(|s: &mut Scene| s.with_san(SanType::OtherName((vec![1, 2, 3], "x".into()))), "neither a DNS name nor")]
// What else it asks for.
#[case::to_be_a_ca(|s: &mut Scene| s.with_params(|p| p.custom_extensions.push(
    CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x03, 0x01, 0x01, 0xff]))), "2.5.29.19")]
// The Machine and its Node.
#[case::of_a_deleting_machine(|s: &mut Scene| s.deleting = true, "being deleted")]
#[case::of_a_foreign_node(|s: &mut Scene| s.node = NodeState::Foreign("no".into()), "does not belong")]
fn a_request_that_breaks_a_rule_is_not_approved(#[case] change: fn(&mut Scene), #[case] why: &str) {
    let mut scene = honest();
    change(&mut scene);
    match scene.judge() {
        Verdict::Refused(reason) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::for_the_node(|s: &mut Scene| s.node = NodeState::Absent, "not registered")]
#[case::for_the_infra_cluster(|s: &mut Scene| s.unseen = Some("it does not answer"), "does not answer")]
#[case::for_the_vms_address(|s: &mut Scene| s.addresses.clear(), "no address")]
fn a_request_that_comes_early_waits(#[case] change: fn(&mut Scene), #[case] why: &str) {
    let mut scene = honest();
    change(&mut scene);
    match scene.judge() {
        Verdict::Waiting(reason) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// A forger learns nothing by asking early, and a person reads what is wrong with the request and not what it waits for.
#[test]
fn a_rule_that_can_never_be_satisfied_comes_before_what_is_waited_for() {
    let mut scene = honest();
    scene.node = NodeState::Absent;
    scene.with_san(dns("worker-2"));
    assert!(matches!(scene.judge(), Verdict::Refused(reason) if reason.contains("DNS name")));
}

#[test]
fn nobodys_text_makes_a_message_long() {
    let mut scene = honest();
    let long = format!("spiffe://{}", "a".repeat(5000));
    scene.with_san(SanType::URI(long.as_str().try_into().unwrap()));
    assert!(matches!(scene.judge(), Verdict::Refused(reason) if reason.len() < 200));
}

#[test]
fn an_approval_is_not_approved_again() {
    let mut scene = honest();
    scene.request = approval(&scene.request);
    let condition = scene
        .request
        .status
        .as_ref()
        .unwrap()
        .conditions
        .as_ref()
        .unwrap()[0]
        .clone();
    assert_eq!(condition.reason.as_deref(), Some("MachinistApproved"));
    assert!(condition.message.unwrap().contains("Machine worker-1"));
    assert_eq!(scene.judge(), Verdict::NotOurs);
}

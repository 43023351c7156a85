//! The rules of the contract with machine-controller's users, as a list of ids, so that a missing rule is detected.

/// Section, and its rules: each has a row or a reason for having none.
pub(super) const RULES: &[(&str, &str)] = &[
    (
        "2.1",
        "caPublicKey caPublicKey-null caPublicKey-type cloudProvider-empty cloudProvider-exact \
         cloudProvider-missing cloudProvider-not-ours cloudProvider-null cloudProvider-type \
         cloudProvider-unregistered cloudProviderSpec-missing cloudProviderSpec-null cloudProviderSpec-type \
         operatingSystem-missing overwriteCloudConfig overwriteCloudConfig-null overwriteCloudConfig-type \
         packet-becomes-equinixmetal providers-of-others sshPublicKeys sshPublicKeys-item-type \
         sshPublicKeys-null sshPublicKeys-type",
    ),
    (
        "2.2",
        "cloudProviderSpec-strict config-variables-are-not-strict miscased-cloudProviderSpec-stays \
         miscased-keys-are-respelt miscased-keys-at-every-level miscased-network-is-respelt no-providerSpec \
         no-value operatingSystemSpec-is-not-strict strict-in-affinity strict-in-auth strict-in-dnsConfig \
         strict-in-dnsConfig-options strict-in-flavor strict-in-instancetype strict-in-location \
         strict-in-machinist strict-in-machinist-commands strict-in-machinist-files \
         strict-in-machinist-kubelet strict-in-machinist-proxy strict-in-machinist-registries \
         strict-in-nodeAffinityPreset strict-in-preference strict-in-primaryDisk strict-in-providerNetwork \
         strict-in-secondaryDisks strict-in-subnet strict-in-template strict-in-the-spec \
         strict-in-topologySpreadConstraints strict-in-vcpus strict-in-virtualMachine strict-in-vpc \
         the-exact-key-wins unknown-key unknown-key-in-dns unknown-key-in-network value-empty value-null \
         value-type",
    ),
    (
        "2.3",
        "a-bad-boolean-behind-a-reference a-bad-text-of-a-boolean \
         a-boolean-behind-a-reference-is-a-Go-boolean a-boolean-is-its-text a-config-map a-list a-missing-key \
         a-missing-object a-null-reference a-number-in-the-object a-number-is-its-text \
         a-reference-is-resolved a-reference-part-type a-reference-type a-reference-wins a-secret \
         a-secret-before-a-config-map-before-the-value a-string all-keys-of-a-reference an-empty-object \
         an-incomplete-reference-is-skipped an-object bool-behind-a-reference bool-empty-object \
         bool-null-is-unset bool-number bool-object bool-quoted bool-quoted-in-the-object both-references \
         escapes-of-strings false kubeconfig-from-the-environment kubeconfig-inline kubeconfig-not-base64 \
         kubeconfig-nowhere kubeconfig-of-nothing kubeconfig-raw-behind-a-reference \
         kubeconfig-that-runs-a-program nothing-behind-an-incomplete-reference null-is-absent \
         null-is-the-word-null serializing true unknown-keys-are-ignored",
    ),
    (
        "2.4",
        "a-spec-of-any-type-stays a-spec-of-flatcar-is-rewritten a-spec-of-rhel-stays-verbatim \
         a-spec-stays-verbatim absent amzn2-is-defaulted amzn2-is-not-for-kubevirt \
         an-empty-spec-of-flatcar-is-completed an-empty-spec-of-rhel-stays an-empty-spec-stays empty exact \
         flatcar flatcar-ignores-what-it-cannot-decode flatcar-keeps-its-utility \
         flatcar-keeps-what-it-can-decode flatcar-reads-keys-of-any-letter-case \
         flatcar-rewrites-a-spec-of-any-type flatcar-takes-an-empty-utility-for-none \
         flatcars-utility-is-not-judged kubevirt-refuses-an-absent-spec misspelled rhel rockylinux type ubuntu \
         unknown",
    ),
    (
        "2.5",
        "any-family dns-null dns-servers-are-texts dns-type empty null static-is-taken \
         static-of-no-use-is-ignored type types-inside",
    ),
    (
        "2.6",
        "a-certificate-of-every-type a-dsa-key a-dsa-key-of-another-size \
         a-refusal-quotes-the-entry-and-the-last-error an-empty-entry an-even-exponent an-exponent-of-24-bits \
         an-exponent-of-25-bits an-exponent-of-one an-rsa-key-too-long an-unknown-type every-type \
         first-usable-line keys-on-tokens no-keys not-base64 one-of-two only-a-comment options-and-comment \
         the-blob-decides the-longest-rsa-key the-placeholder the-smallest-exponent trailing-bytes",
    ),
    (
        "3.3",
        "bootstrap-mode-that-is-unknown-warns bypass-is-removed bypass-of-any-value-is-removed deprecated-flavor \
         deprecated-presets external-ccm external-ccm-is-overwritten feature-gates \
         feature-gates-are-overwritten kubelet-config-is-the-persons kubelet-config-that-is-invalid \
         label-type miscased-key-elsewhere name-fits-a-label no-spec node-name node-name-empty \
         node-name-must-be-the-machines node-name-of-a-generated-name os-label os-label-empty-is-kept \
         os-label-is-kept os-label-is-not-the-objects spec-null taints-are-not-counted taints-are-not-judged \
         timeout-without-a-unit-warns types \
         unknown-key-elsewhere valueFrom-is-not-read",
    ),
    (
        "3.4",
        "a-forged-trace-opens-nothing a-null-spec a-null-status another-stored-name-stays bypass \
         bypass-does-not-stay bypass-is-removed-unused bypass-judges-nothing-but-warns bypass-must-be-true \
         creationTimestamp-null deleting-metadata-and-status deleting-spec deleting-spec-with-bypass \
         empty-and-absent-are-equal inside-the-value instants-are-equal metadata name-becomes-another \
         name-becomes-the-machines name-is-filled-in name-is-removed no-change nothing-is-defaulted \
         nothing-is-validated nothing-is-validated-where-the-spec-is-touched null-and-absent-are-equal \
         null-inside-the-value providerID-empty-is-unset providerID-is-changed \
         providerID-is-changed-with-bypass providerID-is-set providerID-is-unset \
         providerID-is-unset-with-bypass quantities-are-equal-by-value several-changes status taints \
         types-are-not-judged-where-they-were-stored types-of-a-change unknown-fields-are-not-compared \
         version without-a-spec",
    ),
    (
        "3.5",
        "a-deadline-before-anything-is-ready a-kubeconfig-that-stays-nowhere a-number-has-no-bound a-percentage-stays \
         a-rollout-is-judged-on-update a-surge-has-no-bound absent-cluster-namespace-stays-absent \
         absent-topology-stays-absent all all-errors-at-once an-empty-namespace-is-default \
         another-location-is-followed both-zero changed-template-is-judged cluster-namespace-is-copied \
         defaults defaults-on-update deleting-passes every-update-judges-the-template more-than-all \
         names-are-not-judged negative-surge negative-times-are-not-judged negative-unavailable \
         no-annotations-of-machines no-os-label nonsense-surge nonsense-unavailable null-is-defaulted \
         on-delete-has-no-pace on-delete-rolls-nothing paused-is-not-written paused-stays replicas-negative \
         selector-DoesNotExist-does-not-match selector-DoesNotExist-with-values selector-Exists \
         selector-Exists-with-values selector-In selector-In-without-values selector-NotIn \
         selector-NotIn-does-not-match selector-NotIn-without-values selector-bad-key selector-bad-value \
         selector-does-not-match selector-empty selector-expression-bad-key selector-expression-bad-value \
         selector-missing selector-unknown-operator strategy-misspelled strategy-type \
         template-as-kubectl-sends-it template-has-all-shared-steps template-kubeconfig-nowhere \
         template-miscased-keys-are-respelt template-os-spec template-provider-validates template-topology \
         template-topology-without-labels template-unknown-key template-unknown-key-elsewhere \
         template-version template-without-labels text-beyond-a-percentage text-is-a-percentage types \
         unchanged-template-is-not-judged what-was-stored-is-no-reason zero-replicas-stay",
    ),
    (
        "3.6",
        "all-errors-at-once cluster-namespace-is-overwritten configSource configSource-empty \
         configSource-null decoding location-overwrites location-with-labels location-without-labels \
         metadata-annotations metadata-annotations-null os our-sets-are-refused-for-less \
         our-sets-are-refused-for-what-cannot-be-rendered provider provider-takes-an-instancetype-for-sizes \
         provider-takes-cores-for-cpus provider-validates provider-wants-a-nameserver provider-wants-cpus \
         ssh-keys the-infra-cluster-answers topology-of-the-StorageClass values-are-serialized-again \
         verdicts-are-cached version-build version-capital-V version-empty version-four-parts \
         version-leading-v version-leading-zero version-major version-missing version-nonsense \
         version-pre-release version-type version-without-patch",
    ),
    (
        "3.7",
        "a-reordered-value-is-an-empty-patch empty-spec-metadata no-metadata-in-the-template no-spec-metadata \
         nothing-is-added-without-need null-labels null-metadata-in-the-template null-spec-metadata \
         numbers-stay-numbers slashes unknown-fields-survive",
    ),
];

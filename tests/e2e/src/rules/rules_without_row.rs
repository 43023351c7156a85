//! Rules of the sections that no row can test: admission here does not have them, their effect is not visible at admission,
//! or they need a cluster that the rows do not have.

/// Section and rule, why it has no row, and the test for it, as `file::function`; empty if there is nothing to test.
pub const RULES_WITHOUT_ROW: &[(&str, &str, &str)] = &[
    (
        "2.1/providers-of-others",
        "Machinist has the provider kubevirt only; the names of the others are refused like any unknown one.",
        "",
    ),
    (
        "2.1/packet-becomes-equinixmetal",
        "It is about a provider that Machinist does not have.",
        "",
    ),
    (
        "2.3/escapes-of-strings",
        "The API server encodes JSON again before it calls the webhook, so a client's escapes do not arrive.",
        "",
    ),
    (
        "2.3/null-is-the-word-null",
        "Null is absent here: no user means the word, and a cluster would be labeled with it.",
        "",
    ),
    (
        "2.3/a-reference-is-resolved",
        "It needs a Secret to read. The webhook judges what is behind a reference as if it were written down.",
        "tests/e2e/tests/cases/preflight/secrets.rs::values_behind_references_are_judged_each_by_its_field_and_not_shown",
    ),
    (
        "2.3/a-secret-before-a-config-map-before-the-value",
        "It needs objects to read.",
        "tests/e2e/tests/cases/preflight/secrets.rs::a_secret_wins_over_a_config_map_and_that_over_the_value",
    ),
    (
        "2.3/a-missing-object",
        "It needs a cluster in which the object is missing.",
        "tests/e2e/tests/cases/preflight/infra_requests.rs::a_secret_for_the_kubeconfig_that_does_not_exist_is_reported",
    ),
    (
        "2.3/a-missing-key",
        "It needs an object without the key.",
        "tests/e2e/tests/cases/preflight/secrets.rs::values_behind_references_are_judged_each_by_its_field_and_not_shown",
    ),
    (
        "2.3/a-boolean-behind-a-reference-is-a-Go-boolean",
        "It needs an object to read.",
        "shared/src/api/config_var.rs::a_boolean_from_a_secret_is_parsed_as_go_does",
    ),
    (
        "2.3/a-bad-boolean-behind-a-reference",
        "It needs an object to read.",
        "tests/e2e/tests/cases/preflight/secrets.rs::a_bad_boolean_behind_a_reference_is_refused",
    ),
    (
        "2.3/kubeconfig-from-the-environment",
        "The webhook of the rows has none in its environment.",
        "shared/src/provider/kubeconfig.rs::a_reference_to_nothing_falls_through_to_the_environment_and_one_not_read_does_not",
    ),
    (
        "2.3/serializing",
        "Only providers that rewrite their part do it, and kubevirt does not.",
        "",
    ),
    (
        "2.4/amzn2-is-defaulted",
        "It is refused on kubevirt, so what it was defaulted to is never stored.",
        "",
    ),
    (
        "2.4/kubevirt-refuses-an-absent-spec",
        "It is filled in before; what is stored without one is the controller's to judge.",
        "",
    ),
    (
        "3.4/quantities-are-equal-by-value",
        "No field of a Machine outside of providerSpec.value is a quantity.",
        "",
    ),
    (
        "3.5/an-empty-namespace-is-default",
        "The API server sets the namespace before admission.",
        "",
    ),
    (
        "3.5/every-update-judges-the-template",
        "A side effect of machine-controller's serialization; here an unchanged template is never judged.",
        "",
    ),
    (
        "3.6/values-are-serialized-again",
        "Only what must change is changed, so null, empty and absent keys stay as written; see 3.7.",
        "",
    ),
    (
        "3.6/topology-of-the-StorageClass",
        "It needs an infra cluster, and the webhook of the rows asks none.",
        "tests/e2e/tests/cases/preflight/defaults.rs::a_nodes_zone_comes_from_its_storage_class_and_no_update_changes_it",
    ),
    (
        "3.6/the-infra-cluster-answers",
        "It needs an infra cluster. One that is silent is warned of, unless the webhook shall refuse then.",
        "tests/e2e/tests/cases/preflight/infra_requests.rs::an_unresponsive_infra_cluster_is_reported_in_time",
    ),
    (
        "3.6/verdicts-are-cached",
        "What infra clusters answered is remembered for a while, by credential; no verdict is.",
        "tests/e2e/tests/cases/preflight/infra_requests.rs::a_warm_admission_asks_infra_once_and_a_scaled_deployment_never",
    ),
    (
        "3.7/a-reordered-value-is-an-empty-patch",
        "Nothing is reordered, and an empty patch is not sent.",
        "",
    ),
];

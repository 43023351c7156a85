//! Rules of the sections that no row can show, because admission here does not keep them or they do not show there.

/// Section and rule, and why it has no row.
pub const ELSEWHERE: &[(&str, &str)] = &[
    (
        "2.1/providers-of-others",
        "Machinist has the provider kubevirt only; the names of the others are refused like any unknown one.",
    ),
    (
        "2.1/packet-becomes-equinixmetal",
        "It is about a provider that Machinist does not have.",
    ),
    (
        "2.3/escapes-of-strings",
        "The API server writes JSON anew before the webhook reads it, so no escape of a client's arrives.",
    ),
    (
        "2.3/null-is-the-word-null",
        "Null is absent here: nobody can mean the word, and a cluster would be labelled with it.",
    ),
    (
        "2.3/a-reference-is-resolved",
        "Secrets and ConfigMaps are read by the controller, which says what is missing; see shared/src/config_var.rs.",
    ),
    (
        "2.3/a-boolean-behind-a-reference-is-a-Go-boolean",
        "It is read by the controller; see shared/src/config_var.rs.",
    ),
    (
        "2.3/serialising",
        "Only providers that rewrite their part do it, and kubevirt does not.",
    ),
    (
        "2.4/amzn2-is-defaulted",
        "It is refused on kubevirt, so what it was defaulted to is never stored.",
    ),
    (
        "2.4/kubevirt-refuses-an-absent-spec",
        "It is filled in before; what is stored without one is the controller's to judge.",
    ),
    (
        "3.4/quantities-are-equal-by-value",
        "No field of a Machine outside of providerSpec.value is a quantity.",
    ),
    (
        "3.5/an-empty-namespace-is-default",
        "The API server sets the namespace before admission.",
    ),
    (
        "3.5/every-update-judges-the-template",
        "A side effect of machine-controller's serialisation; here an unchanged template is never judged.",
    ),
    (
        "3.6/values-are-serialised-anew",
        "Only what must change is changed, so null, empty and absent keys stay as written; see 3.7.",
    ),
    (
        "3.6/topology-of-the-StorageClass",
        "It needs the infra cluster, which the webhook does not ask yet.",
    ),
    (
        "3.6/the-infra-cluster-answers",
        "It needs the infra cluster, which the webhook does not ask yet.",
    ),
    (
        "3.6/verdicts-are-cached",
        "There is nothing to cache: a verdict needs no infra cluster.",
    ),
    (
        "3.7/a-reordered-value-is-an-empty-patch",
        "Nothing is reordered, and an empty patch is not sent.",
    ),
];

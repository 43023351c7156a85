//! Commands and flags.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::kind::Kind;

/// Shows what Machinist knows beyond the objects. The program kubectl-machinist on the PATH is `kubectl machinist`.
#[derive(Debug, Clone, Parser)]
#[command(name = "kubectl-machinist", bin_name = "kubectl machinist", version)]
pub struct Flags {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The command.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// List objects with this cluster's identity and without a Machine: VMs, disks and Secrets on infra clusters, and
    /// Nodes.
    ///
    /// Exits with 1 if any part could not be searched.
    Orphans(Orphans),
    /// Give Machines that were restored from a backup the VMs that their predecessors left behind: of the same name, with
    /// this cluster's identity. It lists them first, and asks.
    ///
    /// Exits with 1 if any part could not be searched, or any Machine could not be changed.
    Adopt(Adopt),
    /// Remove from the status of all Machines what machine-controller does not write, before it continues with them.
    /// Machinist's controller must be stopped.
    HandBack(HandBack),
}

/// `hand-back`.
#[derive(Debug, Clone, Args)]
pub struct HandBack {
    /// Kubeconfig of the user cluster with the Machines; the default is kubectl's.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in that kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace of the controllers' Lease.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub lease_namespace: String,
}

/// `adopt`.
#[derive(Debug, Clone, Args)]
pub struct Adopt {
    /// The clusters to search.
    #[command(flatten)]
    pub infra_namespaces: ClusterFlags,
    /// All Machines that have never had a VM.
    #[arg(long, required = true)]
    pub restored: bool,
    /// Adopt without a confirmation.
    #[arg(long)]
    pub yes: bool,
}

/// `orphans`.
#[derive(Debug, Clone, Args)]
pub struct Orphans {
    /// The clusters to search.
    #[command(flatten)]
    pub infra_namespaces: ClusterFlags,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Delete all listed objects, after a confirmation.
    #[arg(long)]
    pub delete: bool,
    /// Delete without a confirmation.
    #[arg(long, requires = "delete")]
    pub yes: bool,
    /// The action; the default only lists them.
    #[command(subcommand)]
    pub command: Option<OnOrphans>,
}

/// Actions for orphans.
#[derive(Debug, Clone, Subcommand)]
pub enum OnOrphans {
    /// Delete orphans by name. Objects that are not orphans, or no longer, are refused.
    Delete(Delete),
}

/// `orphans delete`.
#[derive(Debug, Clone, Args)]
pub struct Delete {
    /// Objects to delete, like `vm/web-1`; the kinds are vm, dv, pvc and secret.
    #[arg(required = true, value_name = "KIND/NAME", value_parser = target)]
    pub targets: Vec<Target>,
    /// Let the API server check the requests, without deleting anything.
    #[arg(long)]
    pub dry_run: bool,
}

/// The clusters to search. The user cluster is the one that kubectl uses.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterFlags {
    /// Kubeconfig of the user cluster with the Machines; the default is kubectl's.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in that kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Kubeconfig of the infra cluster, instead of those that Machines reference.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "infra_secret")]
    pub infra_kubeconfig: Option<PathBuf>,
    /// Secret of the user cluster with that kubeconfig; the default key is `kubeconfig`.
    #[arg(long, global = true, value_name = "NAMESPACE/NAME[/KEY]", value_parser = secret_key)]
    pub infra_secret: Option<SecretKey>,
    /// Namespace of the infra cluster to search, repeatable; the default are those with VMs of Machines.
    #[arg(long, global = true, value_name = "NAMESPACE")]
    pub infra_namespace: Vec<String>,
    /// Allow loopback and link-local addresses in kubeconfigs of Machines and Secrets.
    #[arg(long, global = true)]
    pub infra_allow_loopback: bool,
}

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Human-readable.
    Table,
    /// Machine-readable.
    Json,
}

/// One object by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind.name(), self.name)
    }
}

/// A key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKey {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The key.
    pub key: String,
}

fn target(text: &str) -> Result<Target, String> {
    let (kind, name) = text
        .split_once('/')
        .filter(|(_, name)| !name.is_empty() && !name.contains('/'))
        .ok_or_else(|| format!("{text:?} is not like vm/web-1"))?;
    let known = Kind::parse(kind);
    let kind = known.ok_or_else(|| format!("{kind:?} is not one of vm, dv, pvc and secret"))?;
    Ok(Target {
        kind,
        name: name.to_owned(),
    })
}

fn secret_key(text: &str) -> Result<SecretKey, String> {
    let parts: Vec<_> = text.split('/').collect();
    let (namespace, name, key) = match parts[..] {
        [namespace, name] => (namespace, name, "kubeconfig"),
        [namespace, name, key] => (namespace, name, key),
        _ => ("", "", ""),
    };
    if [namespace, name, key].contains(&"") {
        return Err(format!(
            "{text:?} is not like namespace/name or namespace/name/key"
        ));
    }
    Ok(SecretKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use rstest::rstest;

    use super::*;

    fn parse(args: &str) -> Result<Orphans, clap::Error> {
        let args = args.split_whitespace();
        let flags = Flags::try_parse_from(std::iter::once("kubectl-machinist").chain(args))?;
        match flags.command {
            Command::Orphans(orphans) => Ok(orphans),
            _ => panic!("another command"),
        }
    }

    #[test]
    fn flags_of_places_are_taken_before_and_behind_the_command() {
        Flags::command().debug_assert();
        for args in [
            "orphans --infra-kubeconfig f --infra-namespace a --infra-namespace b delete vm/web-1",
            "orphans delete vm/web-1 --infra-kubeconfig f --infra-namespace a --infra-namespace b",
        ] {
            let orphans = parse(args).unwrap();
            assert_eq!(orphans.infra_namespaces.infra_namespace, ["a", "b"], "{args}");
            assert_eq!(
                orphans.infra_namespaces.infra_kubeconfig,
                Some("f".into()),
                "{args}"
            );
            let Some(OnOrphans::Delete(delete)) = orphans.command else {
                panic!("{args}")
            };
            assert_eq!(delete.targets[0].to_string(), "VirtualMachine/web-1");
        }
    }

    #[rstest]
    #[case::nothing_is_named("orphans delete")]
    #[case::a_name_alone("orphans delete web-1")]
    #[case::all_of_a_kind("orphans delete vm/")]
    #[case::a_namespace("orphans delete vm/vms/web-1")]
    #[case::another_kind("orphans delete node/web-1")]
    #[case::all("orphans delete --all")]
    #[case::an_answer_to_no_question("orphans --yes")]
    #[case::nothing_is_adopted_unless_restored("adopt --yes")]
    #[case::two_credentials("orphans --infra-kubeconfig f --infra-secret a/b")]
    #[case::a_secret_without_a_namespace("orphans --infra-secret b")]
    #[case::a_secret_without_a_key("orphans --infra-secret a/b/")]
    fn what_names_nothing_for_certain_is_no_command(#[case] args: &str) {
        assert_eq!(parse(args).unwrap_err().exit_code(), 2);
    }

    #[rstest]
    #[case("a/b", ["a", "b", "kubeconfig"])]
    #[case("a/b/c", ["a", "b", "c"])]
    fn a_secret_has_a_key(#[case] text: &str, #[case] want: [&str; 3]) {
        let found = secret_key(text).unwrap();
        assert_eq!([found.namespace, found.name, found.key], want);
    }

    #[test]
    fn every_flag_is_in_the_document() {
        let document = include_str!("../../docs/cli.md");
        let mut command = Flags::command();
        command.build();
        let orphans = command.find_subcommand("orphans").unwrap();
        let delete = orphans.find_subcommand("delete").unwrap();
        let adopt = command.find_subcommand("adopt").unwrap();
        let hand_back = command.find_subcommand("hand-back").unwrap();
        let flags = orphans
            .get_arguments()
            .chain(delete.get_arguments())
            .chain(adopt.get_arguments())
            .chain(hand_back.get_arguments());
        let names = flags
            .filter_map(clap::Arg::get_long)
            .filter(|name| *name != "help");
        let missing: Vec<_> = names
            .filter(|name| !document.contains(&format!("`--{name}")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

//! Commands and flags.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::kind::Kind;

/// What Machinist knows and no object tells. The program kubectl-machinist on the PATH is `kubectl machinist`.
#[derive(Debug, Clone, Parser)]
#[command(name = "kubectl-machinist", bin_name = "kubectl machinist", version)]
pub struct Flags {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// List what bears this cluster's identity and has no Machine: VMs, disks and Secrets on infra clusters, and Nodes.
    ///
    /// Ends with 1 if anything could not be looked at.
    Orphans(Orphans),
}

/// `orphans`.
#[derive(Debug, Clone, Args)]
pub struct Orphans {
    /// Where to look.
    #[command(flatten)]
    pub places: Places,
    /// Form of the list.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Delete all that is listed, after a question.
    #[arg(long)]
    pub delete: bool,
    /// Delete without a question.
    #[arg(long, requires = "delete")]
    pub yes: bool,
    /// What to do with them; nothing but listing them, without one.
    #[command(subcommand)]
    pub command: Option<OnOrphans>,
}

/// What to do with orphans.
#[derive(Debug, Clone, Subcommand)]
pub enum OnOrphans {
    /// Delete orphans, each by its name. What is none, or not any more, is refused.
    Delete(Delete),
}

/// `orphans delete`.
#[derive(Debug, Clone, Args)]
pub struct Delete {
    /// What to delete, like `vm/web-1`; the kinds are vm, dv, pvc and secret.
    #[arg(required = true, value_name = "KIND/NAME", value_parser = target)]
    pub targets: Vec<Target>,
    /// Have the API server check everything, and delete nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Where to look. The user cluster is found as kubectl finds it.
#[derive(Debug, Clone, Default, Args)]
pub struct Places {
    /// Kubeconfig of the user cluster, where the Machines are; without it, as kubectl finds one.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in that kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Kubeconfig of the infra cluster, instead of those that Machines refer to.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "infra_secret")]
    pub infra_kubeconfig: Option<PathBuf>,
    /// Secret of the user cluster that holds that kubeconfig; the key is `kubeconfig`, unless it is named.
    #[arg(long, global = true, value_name = "NAMESPACE/NAME[/KEY]", value_parser = secret_key)]
    pub infra_secret: Option<SecretKey>,
    /// Namespace of the infra cluster to look into, repeatable; without one, those where Machines have their VMs.
    #[arg(long, global = true, value_name = "NAMESPACE")]
    pub infra_namespace: Vec<String>,
    /// Kubeconfigs of Machines and Secrets may lead to loopback and link-local addresses.
    #[arg(long, global = true)]
    pub infra_allow_loopback: bool,
}

/// Form of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
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
    let kind = known.ok_or_else(|| format!("{kind:?} is none of vm, dv, pvc and secret"))?;
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
        let Command::Orphans(orphans) = flags.command;
        Ok(orphans)
    }

    #[test]
    fn flags_of_places_are_taken_before_and_behind_the_command() {
        Flags::command().debug_assert();
        for args in [
            "orphans --infra-kubeconfig f --infra-namespace a --infra-namespace b delete vm/web-1",
            "orphans delete vm/web-1 --infra-kubeconfig f --infra-namespace a --infra-namespace b",
        ] {
            let orphans = parse(args).unwrap();
            assert_eq!(orphans.places.infra_namespace, ["a", "b"], "{args}");
            assert_eq!(orphans.places.infra_kubeconfig, Some("f".into()), "{args}");
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
        let flags = orphans.get_arguments().chain(delete.get_arguments());
        let names = flags
            .filter_map(clap::Arg::get_long)
            .filter(|name| *name != "help");
        let missing: Vec<_> = names
            .filter(|name| !document.contains(&format!("`--{name}")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

//! The bed's infra cluster runs VMs: the simulator runs, with the schemas and classes of the bed's seed.

use std::time::Duration;

use anyhow::Result;
use testbed::{
    Testbed,
    bed::{Machinist, Options},
};

const VM: &str = r#"
{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"vm-1"},"spec":{
  "runStrategy":"Once",
  "instancetype":{"name":"standard-2","kind":"VirtualMachineClusterInstancetype"},
  "preference":{"name":"sockets-advantage","kind":"VirtualMachineClusterPreference"},
  "dataVolumeTemplates":[{"metadata":{"name":"vm-1"},"spec":{
    "storage":{"storageClassName":"standard","accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"5Gi"}}},
    "source":{"http":{"url":"https://images.example.com/disk.img"}}}}],
  "template":{"spec":{
    "domain":{"devices":{"disks":[{"name":"datavolumedisk","disk":{"bus":"virtio"}}]}},
    "volumes":[{"name":"datavolumedisk","dataVolume":{"name":"vm-1"}}]}}}}"#;

#[tokio::test]
async fn a_vm_runs_on_one_cluster_with_both_roles() -> Result<()> {
    let bed = Testbed::start(Options {
        machinist: Machinist::Absent,
        boot: Some(Duration::from_millis(100)),
        one_cluster: true,
        ..Options::default()
    })
    .await?;
    let infra = bed.infra();
    assert_eq!(infra.server(), bed.user().server());
    infra
        .kubectl_ok(
            &[
                "create",
                "--validate=strict",
                "--namespace",
                "machinist-infra",
                "-f",
                "-",
            ],
            VM,
        )
        .await?;
    let wait = [
        "wait",
        "--namespace",
        "machinist-infra",
        "vm/vm-1",
        "--timeout=60s",
    ];
    infra
        .kubectl_ok(
            &[&wait[..], &["--for=jsonpath={.status.printableStatus}=Running"]].concat(),
            "",
        )
        .await?;
    bed.shut_down().await
}

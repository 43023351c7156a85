//! Warns if no infra node is large enough for the VM, or all nodes together are too small for all VMs, if the
//! credential can list nodes. Existing pods count if the credential can list the pods of all namespaces.

use k8s_openapi::api::core::v1::Node;
use machinist_shared::api::count::counted;
use machinist_shared::api::field::Report;
use machinist_shared::api::quantity;

use super::existence::PodRequests;
use super::quota::Needed;
use super::request::PreflightRequest;

/// Adds a warning for each resource of which no node has enough for one VM, or all nodes together for all.
/// `pod_requests` are the requests of existing pods, if known.
pub(super) fn check(
    nodes: &[Node],
    pod_requests: Option<&[PodRequests]>,
    needed: &Needed,
    request: &PreflightRequest<'_>,
    report: &mut Report,
) {
    for (resource, one) in [("memory", needed.memory), ("cpu", needed.cpu)] {
        let rooms: Vec<(f64, &str, &str)> = nodes
            .iter()
            .filter_map(|node| available(node, resource))
            .collect();
        let Some((largest, text, _)) = rooms.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0)) else {
            continue;
        };
        let path = request.path.child("virtualMachine");
        if one > largest {
            let what =
                format!("no node of the infra cluster has that much {resource}; the largest has {text}");
            report.warn(&path, what);
            continue;
        }
        let free = |available: f64, name: &str| {
            let pods = pod_requests.into_iter().flatten().filter(|pod| pod.node == name);
            let pod_requests = pods.map(|pod| if resource == "cpu" { pod.cpu } else { pod.memory });
            (available - pod_requests.sum::<f64>()).max(0.0)
        };
        // A VM cannot span nodes. The amounts are far below the precision limit of a float.
        let fitting: f64 = rooms
            .iter()
            .map(|(available, _, name)| (free(*available, name) / one).floor())
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "a number of VMs")]
        let requirements = request.replicas as f64;
        if one > 0.0 && fitting < requirements {
            let (left, even_so) = match pod_requests {
                Some(_) => (" left", ""),
                None => ("", ", even if nothing else ran there"),
            };
            let what = format!(
                "the nodes of the infra cluster have {resource}{left} for {fitting} of {}{even_so}",
                counted(request.replicas, "more VM")
            );
            report.warn(&path, what);
        }
    }
}

/// The amount of a resource that a node has for pods, and its name; `None` if it is unschedulable.
fn available<'a>(node: &'a Node, resource: &str) -> Option<(f64, &'a str, &'a str)> {
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        return None;
    }
    let text = node
        .status
        .as_ref()?
        .allocatable
        .as_ref()?
        .get(resource)?
        .0
        .as_str();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    Some((quantity::parse(text)?, text, name))
}

#[cfg(test)]
mod tests {

    use machinist_shared::kubevirt::resolved::ResolvedSpec;
    use rstest::rstest;
    use serde_json::json;

    use super::super::existence::Found;
    use super::super::request::fixture::request;
    use super::*;

    fn node(memory: &str, unschedulable: bool) -> Node {
        let node = json!({"metadata": {"name": format!("node-{memory}")}, "spec": {"unschedulable": unschedulable},
            "status": {"allocatable": {"memory": memory, "cpu": "4"}}});
        serde_json::from_value(node).unwrap()
    }

    fn pod_requests(node: &str, gibibytes: f64) -> PodRequests {
        PodRequests {
            node: node.to_owned(),
            memory: gibibytes * 1024.0 * 1024.0 * 1024.0,
            cpu: 0.0,
        }
    }

    #[rstest]
    #[case::no_permission(&[], None, 9, None)]
    #[case::room_for_all(&[node("9Gi", false), node("9Gi", false)], None, 4, None)]
    #[case::too_large_for_any(&[node("2Gi", false), node("3Gi", false)], None, 1, Some("no node of the infra cluster has that much memory; the largest has 3Gi"))]
    #[case::too_large_beside_its_launcher(&[node("4Gi", false)], None, 1, Some("the largest has 4Gi"))]
    #[case::too_many(&[node("7Gi", false), node("5Gi", false)], None, 3, Some("have memory for 2 of 3 more VMs, even if nothing else ran there"))]
    #[case::a_cordoned_node_has_no_room(&[node("9Gi", true), node("5Gi", false)], None, 2, Some("have memory for 1 of 2 more VMs"))]
    #[case::others_have_taken_it(&[node("9Gi", false)], Some(vec![pod_requests("node-9Gi", 2.0)]), 2, Some("have memory left for 1 of 2 more VMs"))]
    #[case::others_have_taken_it_elsewhere(&[node("9Gi", false)], Some(vec![pod_requests("another", 2.0)]), 2, None)]
    #[case::more_is_taken_than_there_is(&[node("9Gi", false)], Some(vec![pod_requests("node-9Gi", 20.0)]), 1, Some("have memory left for 0 of 1 more VM"))]
    fn room_is_what_nodes_have(
        #[case] nodes: &[Node],
        #[case] pod_requests: Option<Vec<PodRequests>>,
        #[case] replicas: u64,
        #[case] want: Option<&str>,
    ) {
        let spec = ResolvedSpec {
            memory: "4Gi".to_owned(),
            cpus: "1".to_owned(),
            ..ResolvedSpec::default()
        };
        let request = PreflightRequest {
            replicas,
            ..request(&spec)
        };
        let mut report = Report::new();
        check(
            nodes,
            pod_requests.as_deref(),
            &Needed::of(&spec, &Found::default()),
            &request,
            &mut report,
        );
        match (report.warnings.as_slice(), want) {
            ([], None) => {}
            ([warning], Some(want)) => assert!(warning.contains(want), "{warning}"),
            other => panic!("{other:?}"),
        }
    }
}

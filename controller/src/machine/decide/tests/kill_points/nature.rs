//! What KubeVirt, the guest and Kubernetes do by themselves.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::world::{Kind, MACHINE, NAME, World};
use super::*;

const ADDRESS: &str = "10.0.0.7";
/// An import of a disk that takes more than half of a token's life.
const IMPORT: Duration = Duration::from_mins(16);

impl World {
    /// What happens next without the controller, one stage: the oldest first; `false` if nothing does.
    pub(super) fn advance(&mut self) -> bool {
        self.vm_goes() || self.pods_go() || self.guest_goes_on() || self.garbage_is_collected()
    }

    fn vm_goes(&mut self) -> bool {
        if !self.is_going(Kind::Vm) {
            return false;
        }
        if self.delete(Kind::Guest, NAME, None).is_ok() {
            let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": self.seconds()}]}});
            // There may be none.
            let _ = self.patch(Kind::Node, NAME, &unready);
            return true;
        }
        self.objects.remove(&(Kind::Vm, NAME.to_owned()));
        true
    }

    fn pods_go(&mut self) -> bool {
        let own = |object: &Value| object["spec"]["nodeName"] == NAME;
        let has_node = self.get(Kind::Node, NAME).is_some();
        let gone = self
            .named(Kind::Pod)
            .into_iter()
            .find(|(_, pod)| own(pod) && (!has_node || !pod["metadata"]["deletionTimestamp"].is_null()));
        if let Some((name, _)) = gone {
            return self.objects.remove(&(Kind::Pod, name)).is_some();
        }
        let detached = self.named(Kind::Volume).into_iter().find(|(_, volume)| {
            let pod = volume["spec"]["pod"].as_str().unwrap_or_default();
            self.get(Kind::Pod, pod).is_none()
        });
        detached.is_some_and(|(name, _)| self.objects.remove(&(Kind::Volume, name)).is_some())
    }

    fn guest_goes_on(&mut self) -> bool {
        let Some(vm) = self
            .get(Kind::Vm, NAME)
            .filter(|_| !self.is_going(Kind::Vm))
            .cloned()
        else {
            return false;
        };
        let owner = json!([{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": NAME,
            "uid": vm["metadata"]["uid"], "controller": true}]);
        let Some(guest) = self.get(Kind::Guest, NAME).cloned() else {
            let metadata = json!({"name": NAME, "ownerReferences": owner});
            self.create(Kind::Disk, json!({"metadata": metadata})).unwrap();
            let starting = json!({"metadata": metadata, "status": {"phase": "Scheduling"}});
            return self.create(Kind::Guest, starting).is_ok();
        };
        if guest["status"]["phase"] == "Scheduling" {
            return self.starts(&vm);
        }
        self.joins(&guest)
    }

    /// The launcher mounts the user data: nothing runs without it.
    fn starts(&mut self, vm: &Value) -> bool {
        let volumes = &vm["spec"]["template"]["spec"]["volumes"];
        let name = volumes[0]["cloudInitNoCloud"]["secretRef"]["name"]
            .as_str()
            .unwrap();
        let Some(user_data) = self.get(Kind::UserData, name).cloned() else {
            return false;
        };
        self.now += IMPORT;
        let running = json!({"token": user_data["token"], "status": {"phase": "Running",
            "interfaces": [{"name": "default", "ipAddress": ADDRESS}]}});
        self.patch(Kind::Guest, NAME, &running).is_ok()
    }

    /// The kubelet registers with the token that it was given, once.
    fn joins(&mut self, guest: &Value) -> bool {
        let has_registered = guest["registered"] == true;
        let request = self.get(Kind::ClientRequest, "client-1");
        if has_registered {
            let is_ready = |node: &Value| node["status"]["conditions"][0]["status"] == "True";
            if self.get(Kind::Node, NAME).is_none_or(is_ready) {
                return false;
            }
            return self.node_is_ready();
        }
        match request {
            None => {
                let token = guest["token"].as_str().unwrap();
                let name = format!("bootstrap-token-{token}");
                if self.get(Kind::Token, &name).is_none() {
                    return false;
                }
                let request = json!({"metadata": {"name": "client-1"}, "token": token});
                self.create(Kind::ClientRequest, request).is_ok()
            }
            Some(request) if request["approved"] == true => {
                self.registers();
                true
            }
            Some(_) => false,
        }
    }

    fn registers(&mut self) {
        self.delete(Kind::ClientRequest, "client-1", None).unwrap();
        let node = json!({
            "metadata": {"name": NAME},
            "spec": {"providerID": format!("kubermatic://kubevirt/{MACHINE}")},
            "status": {
                "addresses": [{"type": "InternalIP", "address": ADDRESS}],
                "conditions": [{"type": "Ready", "status": "False", "message": "starting"}],
                "nodeInfo": {"kubeletVersion": "v1.33.4"},
            },
        });
        self.create(Kind::Node, node).unwrap();
        self.create(Kind::ServingRequest, serving_request()).unwrap();
        let registered = json!({"registered": true});
        self.patch(Kind::Guest, NAME, &registered).unwrap();
    }

    fn node_is_ready(&mut self) -> bool {
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let node = self.patch(Kind::Node, NAME, &ready).unwrap();
        if node["spec"]["unschedulable"] == true {
            return true;
        }
        for (name, owner) in [("agent", "DaemonSet"), ("shop", "ReplicaSet")] {
            let pod = json!({
                "metadata": {"name": name, "namespace": "ns", "finalizers": ["a grace period"],
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": owner, "name": name, "uid": name, "controller": true}]},
                "spec": {"nodeName": NAME},
            });
            self.create(Kind::Pod, pod).unwrap();
        }
        let volume = json!({"metadata": {"name": "pv-1"}, "spec": {"pod": "shop"}});
        self.create(Kind::Volume, volume).is_ok()
    }

    /// Owners' dependents and requests without a waiting client. Secrets come last: their names are collected.
    fn garbage_is_collected(&mut self) -> bool {
        let vm = self.get(Kind::Vm, NAME).map(|vm| vm["metadata"]["uid"].clone());
        let orphan = |object: &Value| {
            let owner = &object["metadata"]["ownerReferences"][0]["uid"];
            !owner.is_null() && Some(owner) != vm.as_ref()
        };
        let disk = self.get(Kind::Disk, NAME);
        if disk.is_some_and(orphan) {
            return self.delete(Kind::Disk, NAME, None).is_ok();
        }
        if self.get(Kind::Guest, NAME).is_none() || self.serving_is_over() {
            for (kind, name) in [
                (Kind::ClientRequest, "client-1"),
                (Kind::ServingRequest, "serving-1"),
            ] {
                if self.delete(kind, name, None).is_ok() {
                    return true;
                }
            }
        }
        let has_machine = self.get(Kind::Machine, NAME).is_some();
        let mut secrets = self.named(Kind::UserData).into_iter();
        let Some((name, _)) = secrets.find(|(_, secret)| orphan(secret) && !has_machine) else {
            return false;
        };
        self.collected.push(name.clone());
        self.delete(Kind::UserData, &name, None).is_ok()
    }

    fn serving_is_over(&self) -> bool {
        let request = self.get(Kind::ServingRequest, "serving-1");
        request.is_some_and(|request| request["status"]["conditions"].is_array())
    }
}

/// What the kubelet asks for, with its own name and address.
fn serving_request() -> Value {
    static REQUEST: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, text) in [
            (DnType::OrganizationName, "system:nodes"),
            (DnType::CommonName, "system:node:web-1"),
        ] {
            params.distinguished_name.push(kind, text);
        }
        params.subject_alt_names = vec![
            SanType::DnsName(NAME.try_into().unwrap()),
            SanType::IpAddress(ADDRESS.parse().unwrap()),
        ];
        let request = params.serialize_request(&KeyPair::generate().unwrap());
        let pem = request.unwrap().pem().unwrap().replace("\r\n", "\n");
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": "serving-1"},
            "spec": {
                "signerName": "kubernetes.io/kubelet-serving",
                "username": "system:node:web-1",
                "groups": ["system:nodes", "system:authenticated"],
                "usages": ["digital signature", "server auth"],
                "request": k8s_openapi::ByteString(pem.into_bytes()),
            },
        })
    });
    REQUEST.clone()
}

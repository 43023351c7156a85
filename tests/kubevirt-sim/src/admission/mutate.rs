//! What virt-api writes into a VirtualMachine at its creation.

use serde_json::{Value, json};

/// The VM with everything virt-api adds; `uuid` and `serial` are used where the VM has none.
pub fn with_defaults(vm: &Value, uuid: &str, serial: &str) -> Value {
    let mut vm = vm.clone();
    let defaults = [
        ("/spec/template/spec/architecture", json!("amd64")),
        ("/spec/template/spec/domain/machine/type", json!("q35")),
        ("/spec/template/spec/domain/firmware/uuid", json!(uuid)),
        ("/spec/template/spec/domain/firmware/serial", json!(serial)),
        (
            "/spec/template/metadata/annotations/kubevirt.io~1pci-topology-version",
            json!("v3"),
        ),
    ];
    for (pointer, value) in defaults {
        set_if_absent(&mut vm, pointer, value);
    }
    vm
}

fn set_if_absent(object: &mut Value, pointer: &str, value: Value) {
    let mut place = object;
    for part in pointer.trim_start_matches('/').split('/') {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[part.replace("~1", "/").replace("~0", "~")];
    }
    if place.is_null() || *place == "" {
        *place = value;
    }
}

/// A random UUID (version 4).
pub fn random_uuid() -> String {
    let [head, tail]: [u64; 2] = rand::random();
    let head = head & !0xf000 | 0x4000;
    let tail = tail & !(0b11 << 62) | 0b10 << 62;
    let (head, tail) = (format!("{head:016x}"), format!("{tail:016x}"));
    format!(
        "{}-{}-{}-{}-{}",
        &head[..8],
        &head[8..12],
        &head[12..],
        &tail[..4],
        &tail[4..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_added_and_what_is_there_stays() {
        let vm = json!({"spec": {"template": {"spec": {"domain": {"machine": {"type": "pc"}}}}}});
        let expected = json!({"spec": {"template": {
            "metadata": {"annotations": {"kubevirt.io/pci-topology-version": "v3"}},
            "spec": {
                "architecture": "amd64",
                "domain": {"machine": {"type": "pc"}, "firmware": {"uuid": "u", "serial": "s"}},
            },
        }}});
        let once = with_defaults(&vm, "u", "s");
        assert_eq!(once, expected);
        assert_eq!(with_defaults(&once, "other", "other"), expected);
    }

    #[test]
    fn uuids_are_version_four() {
        let uuid = random_uuid();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"), "{uuid}");
        assert_ne!(uuid, random_uuid());
    }
}

//! CDI's StorageProfiles: the capabilities of each class's storage.

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::json;

use crate::objects::{Kind, object};
use crate::plan::{Plan, Write};

/// Creates the profile of a class. CDI does not know the provisioners here: the only claim property sets are those that an admin
/// has written into the spec.
pub fn sync(class: &DynamicObject, profile: Option<&DynamicObject>) -> Plan {
    let Some(profile) = profile else {
        let profile = object(Kind::StorageProfile, &class.name_any(), json!({"spec": {}}));
        return Plan::one(Write::Create(Kind::StorageProfile, profile));
    };
    let mut status = json!({"storageClass": class.name_any(), "provisioner": class.data["provisioner"]});
    if let Some(sets) = profile.data.pointer("/spec/claimPropertySets") {
        status["claimPropertySets"] = sets.clone();
    }
    Plan::status_or(Kind::StorageProfile, profile, status, Plan::idle())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_of_an_unknown_provisioner_has_no_claim_property_sets() {
        let class = object(
            Kind::StorageClass,
            "fast",
            json!({"provisioner": "csi.example.com"}),
        );
        let made = sync(&class, None);
        let [Write::Create(Kind::StorageProfile, profile)] = &made.writes[..] else {
            panic!("{made:?}");
        };
        let reported = sync(&class, Some(profile));
        let [Write::Status(Kind::StorageProfile, profile)] = &reported.writes[..] else {
            panic!("{reported:?}");
        };
        assert_eq!(
            profile.data["status"],
            json!({"storageClass": "fast", "provisioner": "csi.example.com"})
        );
        assert!(sync(&class, Some(profile)).writes.is_empty());
    }

    #[test]
    fn what_the_admin_knows_is_what_is_reported() {
        let class = object(
            Kind::StorageClass,
            "fast",
            json!({"provisioner": "csi.example.com"}),
        );
        let sets = json!([{"accessModes": ["ReadWriteMany"], "volumeMode": "Block"}]);
        let profile = object(
            Kind::StorageProfile,
            "fast",
            json!({"spec": {"claimPropertySets": sets}}),
        );
        let reported = sync(&class, Some(&profile));
        let [Write::Status(Kind::StorageProfile, profile)] = &reported.writes[..] else {
            panic!("{reported:?}");
        };
        assert_eq!(profile.data["status"]["claimPropertySets"], sets);
    }
}

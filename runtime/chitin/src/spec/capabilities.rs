//! Names of capabilities that this runtime does not know: left out, and said so, as by runc. They may be a newer kernel's.

use oci_spec::runtime::Capability;
use serde_json::Value;

/// Takes the unknown names out of a `process` object's sets; the result has each once.
pub fn drop_unknown(process: &mut Value) -> Vec<String> {
    let mut unknown: Vec<String> = Vec::new();
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    let Some(sets) = sets else { return unknown };
    for list in sets.values_mut().filter_map(Value::as_array_mut) {
        list.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            match name.as_str() {
                Some(text) if !known => {
                    if !unknown.iter().any(|u| u == text) {
                        unknown.push(text.to_owned());
                    }
                    false
                }
                _ => true,
            }
        });
    }
    unknown.sort();
    unknown
}

/// Says what was left out.
pub fn warn(unknown: &[String]) {
    if !unknown.is_empty() {
        crate::log::warn(&format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" ")));
    }
}

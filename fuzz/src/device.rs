//! Device manifests and guides.

use relevo_types::{
    DeviceManifest, clashes,
    guide::{self, SharedGuide},
};

/// A manifest, or a guide: a manifest is written as one that reads as the same, and each complaint and each step of a
/// guide can be shown.
pub fn device(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let manifest = match DeviceManifest::examine(text) {
        Ok(examined) => {
            let again = DeviceManifest::parse(&examined.manifest.to_toml());
            assert_eq!(again.as_ref(), Ok(&examined.manifest), "what is written is read as the same");
            let _ = clashes(&[("a.toml", &examined), ("b.toml", &examined)]);
            for problem in &examined.contradictions {
                assert!(!problem.to_string().is_empty());
            }
            Some(examined.manifest)
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            None
        }
    };
    if let Ok(guide) = SharedGuide::parse(text) {
        let Ok(manifest) = DeviceManifest::parse(LEAST) else { unreachable!("it is one") };
        for step in guide.steps_for(&manifest) {
            let values = guide::values(&manifest);
            assert!(!step.english(&values).is_empty());
            let _ = step.commands(&values);
        }
    }
    if let Some(manifest) = manifest {
        let values = guide::values(&manifest);
        for guide in guide::all() {
            for step in guide.steps_for(&manifest) {
                let _ = (step.english(&values), step.commands(&values));
            }
        }
    }
}

const LEAST: &str = "codename = \"a\"\nvendor = \"b\"\nkind = \"ab\"\nrecovery = { partition = \"boot\" }";

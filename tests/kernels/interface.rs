//! The table of entry points says what the sources say.

use std::collections::BTreeSet;

use crate::numbers::Act;
use crate::shim::{HEADS, shim, table};

#[test]
fn the_table_of_entry_points_is_true() {
    for act in [Act::Bf16, Act::F16] {
        let table = table(HEADS[act as usize]);
        let shim = shim(act);
        let sources: BTreeSet<&String> = shim
            .kernels()
            .iter()
            .filter(|(_, kernel)| kernel.file != "broken.cu")
            .map(|(name, _)| name)
            .collect();
        assert_eq!(table.keys().collect::<BTreeSet<_>>(), sources, "names of entry points");
        for (name, said) in &table {
            let kernel = &shim.kernels()[name];
            assert_eq!(said.file, kernel.file, "{name}: file");
            assert_eq!(said.parameters, kernel.parameters, "{name}: arguments");
            assert_eq!(said.threads, kernel.threads, "{name}: threads of a block");
        }
    }
}

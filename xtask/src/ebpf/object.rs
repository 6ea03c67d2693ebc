//! Compares two kernel objects by what the kernel will run.
//! It looks at program, map and data sections; debug information may differ.

use anyhow::{Context, Result};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionFlags, elf};
use std::collections::{BTreeMap, BTreeSet};

/// A section's content, and (offset, symbol) of each of its relocations.
type Content = (Vec<u8>, Vec<(u64, String)>);

/// Returns the names of the sections in which the objects differ, in order.
///
/// # Errors
/// One of them is no object.
pub fn differences(left: &[u8], right: &[u8]) -> Result<Vec<String>> {
    let (left, right) = (sections(left)?, sections(right)?);
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    Ok(names.into_iter().filter(|name| left.get(*name) != right.get(*name)).cloned().collect())
}

/// Returns the sections that decide what runs.
fn sections(content: &[u8]) -> Result<BTreeMap<String, Content>> {
    let file = object::File::parse(content).context("not an object")?;
    let mut sections = BTreeMap::new();
    for section in file.sections() {
        let name = section.name()?;
        let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
        // Allocated: code, maps, read-only and other data, the licence. The rest is for tools.
        if sh_flags & u64::from(elf::SHF_ALLOC) == 0 || section.size() == 0 {
            continue;
        }
        let mut relocations = Vec::new();
        for (offset, relocation) in section.relocations() {
            let symbol = match relocation.target() {
                RelocationTarget::Symbol(index) => file.symbol_by_index(index)?.name()?.to_owned(),
                other => format!("{other:?}"),
            };
            relocations.push((offset, symbol));
        }
        sections.insert(name.to_owned(), (section.data()?.to_vec(), relocations));
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ebpf::source;
    use crate::shell;

    fn committed() -> Vec<u8> {
        std::fs::read(shell::root().join(source::OBJECTS).join("heartbeat.bpfel.o")).unwrap()
    }

    #[test]
    fn an_object_does_not_differ_from_itself() {
        assert_eq!(differences(&committed(), &committed()).unwrap(), [""; 0]);
    }

    #[test]
    fn a_changed_byte_of_code_is_seen_and_one_of_debug_information_is_not() {
        let object = committed();
        let changed = |section: &str| {
            let file = object::File::parse(object.as_slice()).unwrap();
            let (start, _) = file.section_by_name(section).unwrap().file_range().unwrap();
            let mut changed = object.clone();
            changed[start as usize + 40] ^= 1;
            differences(&object, &changed).unwrap()
        };
        assert_eq!(changed("xdp.frags"), ["xdp.frags"]);
        assert_eq!(changed(".maps"), [".maps"]);
        assert_eq!(changed(".BTF.ext"), [""; 0]);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(differences(b"no object", b"no object").is_err());
    }
}

//! Compares two kernel objects by what the kernel will run.
//! It looks at program, map and data sections; debug information may differ.

use anyhow::{Context, Result, bail};
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

/// Refuses an object whose type information has more than one forward declaration.
///
/// LLVM writes those in the order of their addresses in memory, so that two builds of one source would differ.
///
/// # Errors
/// It has more than one, or is no object with type information.
pub fn refuse_unordered(content: &[u8]) -> Result<()> {
    let file = object::File::parse(content).context("not an object")?;
    let section = file.section_by_name(".BTF").context("the object has no type information")?;
    let forwards = forward_declarations(section.data()?).context("the type information cannot be read")?;
    if forwards.len() > 1 {
        bail!(
            "the type information has {} forward declarations ({}), in an order that is another in every build: keep \
             types with pointers to them out of maps, globals and the signatures of programs",
            forwards.len(),
            forwards.join(", ")
        );
    }
    Ok(())
}

/// Returns the names of the forward declarations in a `.BTF` section, or nothing if it cannot be read.
fn forward_declarations(section: &[u8]) -> Option<Vec<String>> {
    let word = |at: usize| Some(u32::from_le_bytes(section.get(at..at + 4)?.try_into().ok()?));
    let length = word(4)? as usize;
    let (mut at, strings) = (length + word(8)? as usize, length + word(16)? as usize);
    let end = at + word(12)? as usize;
    let mut names = Vec::new();
    while at < end {
        let (name, info) = (word(at)? as usize, word(at + 4)?);
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        // What follows the three words of each type: include/uapi/linux/btf.h.
        at += 12
            + match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                2 | 7..=12 | 16 | 18 => 0,
                _ => return None,
            };
        if kind == 7 {
            let name = section.get(strings + name..)?.split(|byte| *byte == 0).next()?;
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Some(names)
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

    /// A `.BTF` section with an integer, and with forward declarations of these names.
    fn types(forwards: &[&str]) -> Vec<u8> {
        let mut strings = vec![0];
        let mut words = vec![0, 1 << 24, 4, 32];
        for name in forwards {
            words.extend([strings.len() as u32, 7 << 24, 0]);
            strings.extend(name.bytes().chain([0]));
        }
        let length = words.len() as u32 * 4;
        let header = [0x1_eb9f, 24, 0, length, length, strings.len() as u32];
        header.into_iter().chain(words).flat_map(u32::to_le_bytes).chain(strings).collect()
    }

    #[test]
    fn forward_declarations_are_found() {
        assert_eq!(forward_declarations(&types(&[])).unwrap(), [""; 0]);
        assert_eq!(
            forward_declarations(&types(&["bpf_sock", "bpf_flow_keys"])).unwrap(),
            ["bpf_sock", "bpf_flow_keys"]
        );
        assert_eq!(forward_declarations(&types(&["bpf_sock"])[..50]), None, "cut short");
        refuse_unordered(&committed()).unwrap();
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(differences(b"no object", b"no object").is_err());
        assert!(refuse_unordered(b"no object").is_err());
    }
}

//! Reads the type information of a kernel object: structures with their members, and map definitions.
//! It knows the kinds that the committed object has and refuses others; it judges nothing.

use std::collections::BTreeMap;

/// A type, as far as sizes and members go.
#[derive(Debug)]
enum Type {
    /// Void and whatever has no size of its own.
    Unsized,
    /// Integers and enums: bytes.
    Plain(u64),
    /// Typedefs and qualifiers.
    Same(u32),
    Pointer(u32),
    Array {
        element: u32,
        count: u32,
    },
    Struct {
        name: String,
        size: u64,
        members: Vec<(String, u32, u64)>,
    },
    Variable {
        name: String,
        of: u32,
    },
}

/// A member of a structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Bytes from the start.
    pub offset: u64,
    /// Bytes it takes.
    pub size: u64,
}

/// A map as the object defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// `BPF_MAP_TYPE_*`.
    pub kind: u32,
    /// Bytes of a key.
    pub key: u64,
    /// Bytes of a value.
    pub value: u64,
    /// Entries.
    pub entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
}

/// The types of an object, by id.
pub struct Btf(Vec<Type>);

/// Reads little-endian words one after the other.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next(&mut self) -> u32 {
        let (word, rest) = self.0.split_first_chunk().expect("type information ends early");
        self.0 = rest;
        u32::from_le_bytes(*word)
    }
}

impl Btf {
    /// Reads the content of a `.BTF` section.
    pub fn parse(section: &[u8]) -> Self {
        let mut header = Words(section);
        assert_eq!(header.next() & 0xffff, 0xeb9f, "magic");
        let length = header.next() as usize;
        let [type_at, type_length, string_at, string_length] = [(); 4].map(|()| header.next() as usize);
        let strings = &section[length + string_at..][..string_length];
        let string = |at: u32| {
            let text = &strings[at as usize..];
            let end = text.iter().position(|byte| *byte == 0).expect("a string without an end");
            String::from_utf8(text[..end].to_vec()).expect("a name that is no text")
        };
        let mut words = Words(&section[length + type_at..][..type_length]);
        let mut types = vec![Type::Unsized];
        while !words.0.is_empty() {
            types.push(read_type(&mut words, &string));
        }
        Self(types)
    }

    fn size(&self, id: u32) -> u64 {
        match &self.0[id as usize] {
            Type::Unsized | Type::Variable { .. } => panic!("type {id} has no size"),
            Type::Plain(size) | Type::Struct { size, .. } => *size,
            Type::Same(of) => self.size(*of),
            Type::Pointer(_) => 8,
            Type::Array { element, count } => self.size(*element) * u64::from(*count),
        }
    }

    /// Returns size and members of the one structure of this name.
    pub fn structure(&self, wanted: &str) -> (u64, Vec<Member>) {
        let mut found = self.0.iter().filter_map(|each| match each {
            Type::Struct { name, size, members } if name == wanted => Some((*size, members)),
            _ => None,
        });
        let (size, members) = found.next().unwrap_or_else(|| panic!("the object has no structure `{wanted}`"));
        assert!(found.next().is_none(), "the object has more than one structure `{wanted}`");
        let member = |(name, of, bits): &(String, u32, u64)| Member {
            name: name.clone(),
            offset: bits / 8,
            size: self.size(*of),
        };
        (size, members.iter().map(member).collect())
    }

    /// Returns every map: the global variables whose type has a map's members.
    pub fn maps(&self) -> BTreeMap<String, Map> {
        let mut maps = BTreeMap::new();
        for each in &self.0 {
            if let Type::Variable { name, of } = each
                && let Type::Struct { members, .. } = &self.0[*of as usize]
                && members.iter().any(|(member, ..)| member == "max_entries")
            {
                maps.insert(name.clone(), self.map(members));
            }
        }
        maps
    }

    fn map(&self, members: &[(String, u32, u64)]) -> Map {
        // Each member is a pointer: to a type of the size meant, or to an array of as many elements as are meant.
        let target = |name: &str| {
            let member = members.iter().find(|(member, ..)| member == name);
            match member.map(|(_, of, _)| &self.0[*of as usize]) {
                Some(Type::Pointer(to)) => *to,
                other => panic!("map member `{name}` is {other:?}"),
            }
        };
        let number = |name: &str| match &self.0[target(name) as usize] {
            Type::Array { count, .. } => *count,
            other => panic!("map member `{name}` points to {other:?}"),
        };
        Map {
            kind: number("type"),
            key: self.size(target("key")),
            value: self.size(target("value")),
            entries: number("max_entries"),
            flags: number("map_flags"),
        }
    }
}

/// Reads one type. The kinds are those of include/uapi/linux/btf.h.
fn read_type(words: &mut Words<'_>, string: &impl Fn(u32) -> String) -> Type {
    let (name, info, extra) = (words.next(), words.next(), words.next());
    let count = info & 0xffff;
    let mut skip = |number: u32| (0..number).for_each(|_| _ = words.next());
    match info >> 24 & 0x1f {
        1 => {
            skip(1);
            Type::Plain(extra.into())
        }
        2 => Type::Pointer(extra),
        3 => {
            let [element, _index, count] = [(); 3].map(|()| words.next());
            Type::Array { element, count }
        }
        4 | 5 => {
            let mut member = || {
                let [name, of, offset] = [(); 3].map(|()| words.next());
                // With the kind flag the upper byte is the width of a bit field.
                (string(name), of, u64::from(if info >> 31 == 0 { offset } else { offset & 0x00ff_ffff }))
            };
            let members = (0..count).map(|_| member()).collect();
            Type::Struct { name: string(name), size: extra.into(), members }
        }
        6 => {
            skip(2 * count);
            Type::Plain(extra.into())
        }
        7 | 12 => Type::Unsized,
        8..=11 | 18 => Type::Same(extra),
        13 => {
            skip(2 * count);
            Type::Unsized
        }
        14 => {
            skip(1);
            Type::Variable { name: string(name), of: extra }
        }
        15 => {
            skip(3 * count);
            Type::Unsized
        }
        16 => Type::Plain(extra.into()),
        17 => {
            skip(1);
            Type::Unsized
        }
        19 => {
            skip(3 * count);
            Type::Plain(extra.into())
        }
        kind => panic!("a type of unknown kind {kind}"),
    }
}

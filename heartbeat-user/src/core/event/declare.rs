//! Declares events once: number, name, level, fields. It declares them; it knows none.

/// Declares an enum of events. `+ Variant(Inner)` makes the events of another such enum a part of it.
macro_rules! events {
    ($(#[doc = $about:literal])* $enum:ident $(+ $also:ident($inner:ty))? {
        $(
            $(#[doc = $doc:literal])*
            $variant:ident = $id:literal $name:literal $level:ident {
                $($(#[$meta:meta])* $field:ident: $type:ty,)*
            }
        )*
    }) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
        #[serde(untagged)]
        pub enum $enum {
            $(
                $(#[doc = $doc])*
                $variant { $($(#[$meta])* $field: $type,)* },
            )*
            $(
                /// One of those that are declared elsewhere.
                $also($inner),
            )?
        }

        impl $enum {
            /// Number, name and level of every event declared here, in the order of declaration.
            pub const ALL: &[(u32, &'static str, crate::core::event::Level)] =
                &[$(($id, $name, crate::core::event::Level::$level),)*];

            /// Returns the event's number.
            #[must_use]
            pub const fn id(&self) -> u32 {
                match self {
                    $(Self::$variant { .. } => $id,)*
                    $(Self::$also(inner) => inner.id(),)?
                }
            }

            /// Returns the event's stable name.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)*
                    $(Self::$also(inner) => inner.name(),)?
                }
            }

            /// Returns how grave it is, as declared.
            const fn declared_level(&self) -> crate::core::event::Level {
                match self {
                    $(Self::$variant { .. } => crate::core::event::Level::$level,)*
                    $(Self::$also(inner) => inner.level(),)?
                }
            }
        }
    };
}

pub(super) use events;

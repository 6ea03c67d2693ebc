//! Enums whose values are words: the same in JSON as on screen. It declares them; it knows none.

/// Declares an enum whose values are lower-case words, in JSON as on screen.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $word:literal $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $(#[doc = $text] #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// Returns the word for this value.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.word())
            }
        }
    };
}

pub(super) use words;

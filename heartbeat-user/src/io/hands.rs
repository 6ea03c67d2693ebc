//! As whom root works where somebody else owns what it works on. It looks users up and becomes one; it opens nothing.

use crate::cli::DEFAULT_UNIT;
use crate::control::SERVICE_NAME;
use crate::io::manager;
use anyhow::Context;
use nix::unistd::{User, geteuid};

/// Makes this process one that may work in a directory of `owner`, for good; false if it may not. Called before this
/// process has a second thread.
///
/// # Errors
/// If the system refuses.
pub(super) fn enter(owner: u32) -> anyhow::Result<bool> {
    let caller = geteuid().as_raw();
    let service = if caller == 0 && owner != 0 { service(owner) } else { None };
    match (hands(owner, caller, service.as_ref().map(|user| user.uid.as_raw())), service) {
        (Hands::None, _) => return Ok(false),
        (Hands::Service, Some(user)) => become_user(&user.name)?,
        _ => {}
    }
    Ok(true)
}

/// Becomes a user for good. Called before this process has a second thread.
///
/// # Errors
/// If there is no such user, or the system refuses.
pub(super) fn become_user(name: &str) -> anyhow::Result<()> {
    let user = nix::unistd::User::from_name(name)
        .with_context(|| format!("look for user {name}"))?
        .with_context(|| format!("there is no user {name}, whom the service runs as: run `systemd-sysusers`"))?;
    let c_name = std::ffi::CString::new(name).context("the name of a user")?;
    nix::unistd::initgroups(&c_name, user.gid).with_context(|| format!("take the groups of user {name}"))?;
    nix::unistd::setgid(user.gid).with_context(|| format!("become group {}", user.gid))?;
    nix::unistd::setuid(user.uid).with_context(|| format!("become user {name}"))
}

/// Finds the service's user with this id: the package's, or the one that the unit names.
fn service(owner: u32) -> Option<User> {
    let named = |name: &str| User::from_name(name).ok().flatten().filter(|user| user.uid.as_raw() == owner);
    named(SERVICE_NAME).or_else(|| named(&manager::of_unit("User", DEFAULT_UNIT)?))
}

/// As whom the pins of somebody are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hands {
    /// As the caller.
    Own,
    /// As the service's user.
    Service,
    /// Not at all.
    None,
}

/// Says as whom `caller` works in a directory of `owner`. Root goes into the service's directory as the service's user:
/// who owns a directory can lead elsewhere whoever comes in, and root would remove what lies there. A stranger's
/// directory is refused when it is opened, with what to do about it.
fn hands(owner: u32, caller: u32, service: Option<u32>) -> Hands {
    match caller {
        0 if owner != 0 && Some(owner) == service => Hands::Service,
        0 => Hands::Own,
        caller if caller == owner => Hands::Own,
        _ => Hands::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_works_in_the_services_directory_as_the_service() {
        for (owner, caller, service, expected) in [
            (0, 0, None, Hands::Own),
            (0, 0, Some(0), Hands::Own),
            (0, 0, Some(7), Hands::Own),
            (7, 0, Some(7), Hands::Service),
            // Refused as it is opened, by name.
            (8, 0, Some(7), Hands::Own),
            (7, 7, Some(7), Hands::Own),
            (8, 8, Some(7), Hands::Own),
            (7, 8, Some(7), Hands::None),
            (0, 7, Some(7), Hands::None),
        ] {
            assert_eq!(hands(owner, caller, service), expected, "{owner} {caller} {service:?}");
        }
    }

    #[test]
    fn a_user_that_is_missing_is_named_with_the_remedy() {
        let error = format!("{:#}", become_user("no-such-user-here").unwrap_err());
        assert!(error.contains("no-such-user-here") && error.contains("systemd-sysusers"), "{error}");
    }
}

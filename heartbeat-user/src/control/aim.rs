//! Which heartbeatd `heartbeatctl` means: the socket that it asks and the configuration that it goes by, where nobody
//! can be asked, are of the same one. It reads the configuration and asks nobody.

use super::Refusal;
use crate::cli::{DEFAULT_CONFIG, DEFAULT_SOCKET};
use crate::config::load;
use std::path::{Path, PathBuf};

/// One heartbeatd.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Aim {
    /// Where it listens.
    pub socket: PathBuf,
    /// Its configuration; `None` where nothing says that the one at hand is its own.
    pub config: Option<PathBuf>,
}

/// Why the command line names none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AimError {
    #[error("--socket {} and --config {}, whose socket is {}, are of two heartbeatds: give one of them",
        .socket.display(), .config.display(), .named.display())]
    Two { socket: PathBuf, config: PathBuf, named: PathBuf },
    #[error(transparent)]
    Unreadable(#[from] Refusal),
}

/// Finds the heartbeatd that `detach` means by what was given of the two.
pub(super) fn aim(socket: Option<&Path>, config: Option<&Path>) -> Result<Aim, AimError> {
    aim_by(socket, config, |file| {
        load(file).map(|config| config.control_socket()).map_err(|error| Refusal::failed(error.to_string()))
    })
}

/// The same; `socket_of` says where the heartbeatd of a configuration listens.
fn aim_by(
    socket: Option<&Path>,
    config: Option<&Path>,
    socket_of: impl FnOnce(&Path) -> Result<PathBuf, Refusal>,
) -> Result<Aim, AimError> {
    let file = config.unwrap_or(Path::new(DEFAULT_CONFIG));
    let named = match socket_of(file) {
        Ok(named) => named,
        // The service's own may be the very thing that is broken.
        Err(_) if file == Path::new(DEFAULT_CONFIG) => PathBuf::from(DEFAULT_SOCKET),
        Err(refusal) => return Err(refusal.into()),
    };
    let fits = socket.is_none_or(|socket| is_same(socket, &named));
    let socket = socket.unwrap_or(&named).to_owned();
    match (fits, config) {
        (true, _) => Ok(Aim { socket, config: Some(file.to_owned()) }),
        (false, None) => Ok(Aim { socket, config: None }),
        (false, Some(config)) => Err(AimError::Two { socket, config: config.to_owned(), named }),
    }
}

/// Says whether two names are of one socket. It need not be there, nor its directory, which goes with a service; what
/// is there of the way to it may have two names.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        let found =
            path.ancestors().find_map(|above| Some((above.canonicalize().ok()?, path.strip_prefix(above).ok()?)));
        found.map_or_else(|| path.to_owned(), |(above, rest)| above.join(rest))
    };
    real(one) == real(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(socket: Option<&str>, config: Option<&str>, of_default: Option<&str>) -> Result<Aim, AimError> {
        aim_by(socket.map(Path::new), config.map(Path::new), |file| match file.to_str() {
            Some(DEFAULT_CONFIG) => of_default.map(PathBuf::from).ok_or_else(|| Refusal::failed("broken")),
            Some("/lab.toml") => Ok("/lab/control.sock".into()),
            _ => Err(Refusal::failed("no such file")),
        })
    }

    #[test]
    fn the_socket_and_the_configuration_are_of_one_heartbeatd() {
        let aim =
            |socket: &str, config: Option<&str>| Ok(Aim { socket: socket.into(), config: config.map(PathBuf::from) });
        let own = Some(DEFAULT_CONFIG);
        for (socket, config, of_default, expected) in [
            (None, None, Some(DEFAULT_SOCKET), aim(DEFAULT_SOCKET, own)),
            (None, None, Some("/r/control.sock"), aim("/r/control.sock", own)),
            (None, None, None, aim(DEFAULT_SOCKET, own)),
            (None, own, None, aim(DEFAULT_SOCKET, own)),
            // By the configuration of another, that other is asked and nobody else.
            (None, Some("/lab.toml"), Some(DEFAULT_SOCKET), aim("/lab/control.sock", Some("/lab.toml"))),
            (Some("/lab/control.sock"), Some("/lab.toml"), None, aim("/lab/control.sock", Some("/lab.toml"))),
            // By the socket of another, the service's pins are not meant.
            (Some("/lab/control.sock"), None, Some(DEFAULT_SOCKET), aim("/lab/control.sock", None)),
            (Some("/lab/control.sock"), None, None, aim("/lab/control.sock", None)),
            (Some(DEFAULT_SOCKET), None, Some(DEFAULT_SOCKET), aim(DEFAULT_SOCKET, own)),
            (Some(DEFAULT_SOCKET), None, None, aim(DEFAULT_SOCKET, own)),
            (Some(DEFAULT_SOCKET), None, Some("/r/control.sock"), aim(DEFAULT_SOCKET, None)),
            (None, Some("/none.toml"), Some(DEFAULT_SOCKET), Err(Refusal::failed("no such file").into())),
        ] {
            assert_eq!(found(socket, config, of_default), expected, "{socket:?} {config:?} {of_default:?}");
        }
        let error = found(Some("/x/control.sock"), Some("/lab.toml"), None).unwrap_err().to_string();
        assert!(error.contains("/x/control.sock and --config /lab.toml, whose socket is /lab/control.sock"), "{error}");
    }

    #[test]
    fn one_directory_may_have_two_names() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(is_same(&real.join("control.sock"), &link.join("control.sock")));
        assert!(is_same(&real.join("gone/control.sock"), &link.join("gone/control.sock")), "as after a service's end");
        assert!(!is_same(&real.join("gone/control.sock"), &link.join("left/control.sock")));
        assert!(!is_same(&real.join("control.sock"), &link.join("other.sock")));
        assert!(!is_same(Path::new("/no/such/control.sock"), Path::new("/no/other/control.sock")));
    }
}

//! Values of settings that are neither amounts nor in the network: names, words, files, switches.

use std::path::PathBuf;

use super::problems::{Fault, nearest, quoted};
use super::read::{FromScalar, Scalar};
use super::{AccessLog, ForwardingHeader, LogLevel, StoreUrl, UpstreamProtocol};
use crate::access::key::Environment;
use crate::access::permission::PermissionName;
use crate::access::route::Route;

/// A text that may be empty, which is None.
pub(super) struct Optional<T>(pub(super) Option<T>);

/// What a node is called.
pub(super) struct NodeName(pub(super) String);

/// The name of a file, as written.
pub(super) struct FilePath(pub(super) String);

/// A protocol that `Upgrade` may name, in lower case.
#[derive(PartialEq, Debug)]
pub(super) struct Upgrade(pub(super) String);

/// What a listener makes of a client's certificate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Demand {
    Required,
    Optional,
}

impl<T: FromScalar> FromScalar for Optional<T> {
    const WHAT: &'static str = T::WHAT;

    fn form() -> String {
        format!("{}; or \"\" for none", T::form())
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        if scalar.text()?.is_empty() { Ok(Self(None)) } else { T::from_scalar(scalar).map(|value| Self(Some(value))) }
    }
}

impl FromScalar for bool {
    const WHAT: &'static str = "true or false";

    fn form() -> String {
        "true or false, without quotes".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        if let Scalar::Switch(switch) = scalar { Ok(*switch) } else { Err(Fault::Form) }
    }
}

/// A setting that is one of a few words.
trait Word: Copy + 'static {
    const WHAT: &'static str;
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Word> FromScalar for T {
    const WHAT: &'static str = <T as Word>::WHAT;

    fn form() -> String {
        let words: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => words.concat(),
        }
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        if let Some((_, meant)) = T::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*meant);
        }
        let near = nearest(text, T::WORDS.iter().map(|(word, _)| *word)).ok_or(Fault::Form)?;
        Err(Fault::helped(format!("{} is not {}", quoted(text), <T as Word>::WHAT), format!("did you mean \"{near}\"?")))
    }
}

impl Word for Environment {
    const WHAT: &'static str = "an environment";
    const WORDS: &'static [(&'static str, Self)] = &[(Self::Production.name(), Self::Production), (Self::Sandbox.name(), Self::Sandbox)];
}

impl Word for UpstreamProtocol {
    const WHAT: &'static str = "a protocol";
    const WORDS: &'static [(&'static str, Self)] = &[("http1", Self::Http1), ("http2", Self::Http2)];
}

impl Word for ForwardingHeader {
    const WHAT: &'static str = "a header that proxies write";
    const WORDS: &'static [(&'static str, Self)] = &[("x-forwarded-for", Self::XForwardedFor), ("forwarded", Self::Forwarded)];
}

impl Word for Demand {
    const WHAT: &'static str = "what can be asked of a client";
    const WORDS: &'static [(&'static str, Self)] = &[("required", Self::Required), ("optional", Self::Optional)];
}

impl Word for LogLevel {
    const WHAT: &'static str = "a level";
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::Error.name(), Self::Error),
        (Self::Warn.name(), Self::Warn),
        (Self::Info.name(), Self::Info),
        (Self::Debug.name(), Self::Debug),
        (Self::Trace.name(), Self::Trace),
    ];
}

impl FromScalar for String {
    const WHAT: &'static str = "a name";

    fn form() -> String {
        "a name in quotes".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        if text.is_empty() || text.chars().any(char::is_control) { Err(Fault::Form) } else { Ok(text.to_owned()) }
    }
}

impl FromScalar for NodeName {
    const WHAT: &'static str = String::WHAT;

    fn form() -> String {
        "a name in quotes; or \"\" for the machine's".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        Optional::from_scalar(scalar).map(|Optional(name)| Self(name.unwrap_or_default()))
    }
}

impl FromScalar for FilePath {
    const WHAT: &'static str = "a file";

    fn form() -> String {
        "the path of a file in quotes".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        if text.is_empty() || text.contains('\0') { Err(Fault::Form) } else { Ok(Self(text.to_owned())) }
    }
}

impl FromScalar for AccessLog {
    const WHAT: &'static str = "a place for the access log";

    fn form() -> String {
        "\"stdout\", \"off\" or the path of a file".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        match text {
            "stdout" => return Ok(Self::Stdout),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        // A slip must not become a file that nobody reads.
        if let Some(near) = nearest(text, ["stdout", "off"]) {
            let help = format!("did you mean \"{near}\"? for a file of that name write \"./{text}\"");
            return Err(Fault::helped(format!("{} is neither \"stdout\" nor \"off\"", quoted(text)), help));
        }
        FilePath::from_scalar(scalar).map(|FilePath(path)| Self::File(PathBuf::from(path)))
    }
}

impl FromScalar for StoreUrl {
    const WHAT: &'static str = "a store";

    fn form() -> String {
        "\"sqlite:PATH\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        // Never repeated in a message: with a variable in it, it may hold a password that the file does not show.
        match text.split_once(':') {
            Some(("sqlite", path)) => sqlite(path.strip_prefix("//").unwrap_or(path)),
            Some(("postgres" | "postgresql", rest)) if rest.len() > 2 && rest.starts_with("//") => Ok(Self::Postgres(text.to_owned())),
            _ => Err(Fault::helped("this is not the URL of a store", format!("write {}", Self::form()))),
        }
    }
}

fn sqlite(path: &str) -> Result<StoreUrl, Fault> {
    if path.starts_with(":memory:") {
        return Err(Fault::helped("a store in memory would lose every key when the node stops", "write \"sqlite:PATH\""));
    }
    if path.contains('?') {
        return Err(Fault::helped("the URL of an SQLite store has no parameters", "write \"sqlite:PATH\" alone"));
    }
    if path.is_empty() || path.contains('\0') {
        return Err(Fault::helped("this URL names no file", "write \"sqlite:PATH\""));
    }
    Ok(StoreUrl::Sqlite(path.into()))
}

impl FromScalar for Upgrade {
    const WHAT: &'static str = "a protocol to upgrade to";

    fn form() -> String {
        "the name of a protocol in quotes, such as \"websocket\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        let token = text.to_ascii_lowercase();
        let (name, version) = token.split_once('/').map_or((token.as_str(), None), |(name, version)| (name, Some(version)));
        if matches!(name, "h2c" | "tls") {
            let help = "leave it out: behind such an upgrade, requests would pass that nobody has decided";
            return Err(Fault::helped(format!("{} is never upgraded to", quoted(text)), help));
        }
        let is_token = |part: &str| !part.is_empty() && part.bytes().all(is_token_byte);
        let is_valid = is_token(name) && version.is_none_or(is_token);
        if is_valid { Ok(Self(token)) } else { Err(Fault::Form) }
    }
}

/// RFC 9110, section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl FromScalar for PermissionName {
    const WHAT: &'static str = "a permission";

    fn form() -> String {
        "a resource, a colon and an action, such as \"payments.charges:write\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        Self::parse(text).map_err(Fault::said)
    }
}

impl FromScalar for Route {
    const WHAT: &'static str = "a route";

    fn form() -> String {
        "a method, a space and a path, such as \"GET /api/v1/payments/charges/{id}\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        Self::parse(text).map_err(Fault::said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: FromScalar>(text: &str) -> Result<T, Fault> {
        T::from_scalar(&Scalar::Text(text.into()))
    }

    /// What is wrong with a text, for a type that refuses it.
    #[track_caller]
    fn refused<T: FromScalar>(text: &str) -> Fault {
        parse::<T>(text).err().unwrap_or_else(|| panic!("{text:?} is taken for {}", T::WHAT))
    }

    #[test]
    fn a_word_that_is_nearly_right_is_named() {
        assert_eq!(parse::<Environment>("sandbox").unwrap(), Environment::Sandbox);
        assert!(matches!(refused::<UpstreamProtocol>("HTTP2"), Fault::Said { help: Some(help), .. } if help == "did you mean \"http2\"?"));
        assert_eq!(refused::<LogLevel>("loud"), Fault::Form);
    }

    #[test]
    fn a_store_is_a_file_or_a_server_and_its_url_is_never_repeated() {
        for (text, path) in [("sqlite:data/a.db", "data/a.db"), ("sqlite://a.db", "a.db"), ("sqlite:///var/a.db", "/var/a.db")] {
            assert_eq!(parse::<StoreUrl>(text).unwrap(), StoreUrl::Sqlite(path.into()));
        }
        for text in ["postgres://me@host/db?sslmode=verify-full", "postgresql://host/db"] {
            assert_eq!(parse::<StoreUrl>(text).unwrap(), StoreUrl::Postgres(text.to_owned()));
        }
        for text in [
            "",
            "hunter2",
            "sqlite",
            "sqlite:",
            "sqlite://",
            "sqlite::memory:",
            "sqlite:hunter2?mode=ro",
            "mysql://hunter2",
            "postgres:hunter2",
            "postgres://",
        ] {
            assert!(matches!(refused::<StoreUrl>(text), Fault::Said { message, .. } if !message.contains("hunter2")), "{text}");
        }
    }

    #[test]
    fn a_slip_does_not_become_the_file_of_the_access_log() {
        assert_eq!(parse::<AccessLog>("stdout").unwrap(), AccessLog::Stdout);
        assert_eq!(parse::<AccessLog>("off").unwrap(), AccessLog::Off);
        assert_eq!(parse::<AccessLog>("/var/log/access.json").unwrap(), AccessLog::File("/var/log/access.json".into()));
        assert_eq!(parse::<AccessLog>("./stdot").unwrap(), AccessLog::File("./stdot".into()));
        assert_ne!(refused::<AccessLog>("stdot"), Fault::Form);
        assert_eq!(refused::<AccessLog>(""), Fault::Form);
    }

    #[test]
    fn upgrades_are_tokens_and_never_another_transport() {
        assert_eq!(parse::<Upgrade>("WebSocket").unwrap(), Upgrade("websocket".to_owned()));
        assert_eq!(parse::<Upgrade>("IRC/6.9").unwrap(), Upgrade("irc/6.9".to_owned()));
        for text in ["h2c", "H2C", "TLS/1.0", "tls/1.3", "tls"] {
            assert_ne!(refused::<Upgrade>(text), Fault::Form, "{text}");
        }
        for text in ["", "/", "a/", "/1", "a/b/c", "a b", "a,b", "é"] {
            assert_eq!(refused::<Upgrade>(text), Fault::Form, "{text}");
        }
    }

    #[test]
    fn names_and_paths_are_not_empty_but_a_node_may_have_none() {
        assert_eq!(refused::<String>(""), Fault::Form);
        assert_eq!(refused::<String>("a\nb"), Fault::Form);
        assert_eq!(refused::<FilePath>(""), Fault::Form);
        assert_eq!(refused::<FilePath>("a\0b"), Fault::Form);
        assert_eq!(parse::<NodeName>("").unwrap().0, "");
        assert_eq!(parse::<NodeName>("edge-1").unwrap().0, "edge-1");
    }
}

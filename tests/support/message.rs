//! Requests and replies as values, the same for every version of HTTP.

use std::fmt;

use bytes::Bytes;
use serde_json::Value;

use super::gateway::PRODUCTION;
use super::keys::TestKey;

/// Header fields in the order in which they stood on the wire, names in lower case.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    pub fn add(&mut self, name: &str, value: &str) {
        self.0.push((name.to_ascii_lowercase(), value.to_owned()));
    }

    /// The value of a field that stands there once at most.
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} stands there {} times: {self:?}", all.len());
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.iter().filter(|(given, _)| *given == name).map(|(_, value)| value).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sorted, each as often as it stands there.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Fields {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(pairs: T) -> Self {
        let mut fields = Self::default();
        pairs.into_iter().for_each(|(name, value)| fields.add(name, value));
        fields
    }
}

/// A request that a client means to send.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub host: String,
    /// With its query.
    pub path: String,
    pub fields: Vec<(String, String)>,
    pub body: Bytes,
}

impl Request {
    pub fn new(method: &'static str, path: &str) -> Self {
        Self { method, host: PRODUCTION.to_owned(), path: path.to_owned(), fields: Vec::new(), body: Bytes::new() }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn post(path: &str, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new("POST", path) }
    }

    pub fn to(self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self }
    }

    pub fn with_path(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn with(self, key: &TestKey) -> Self {
        self.secret(&key.secret)
    }

    pub fn secret(self, secret: &str) -> Self {
        self.field("authorization", &format!("Bearer {secret}"))
    }

    /// As a gRPC client would: a POST with its content type.
    pub fn of_grpc(self) -> Self {
        self.field("content-type", "application/grpc").field("te", "trailers")
    }
}

/// What a client got.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// The 1xx replies before it.
    pub interim: Vec<(u16, Fields)>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, fields, body, trailers, interim } = self;
        let shown = String::from_utf8_lossy(&body[..body.len().min(1_000)]);
        write!(f, "{interim:?} {status} {fields:?} {shown:?} ({} bytes) {trailers:?}", body.len())
    }
}

impl Reply {
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The `code` of a refusal; none if this is no refusal of the gateway's.
    pub fn code(&self) -> Option<String> {
        let ours = self.fields.get("x-martis-error-source") == Some("gateway");
        let problem: Value = serde_json::from_slice(&self.body).ok()?;
        ours.then(|| problem["code"].as_str().map(str::to_owned))?
    }

    /// Fails unless the gateway forwarded the request and the upstream said 200.
    #[track_caller]
    pub fn passed(self) -> Self {
        assert_eq!((self.status, self.field("x-martis-error-source")), (200, None), "{self:?}");
        self
    }

    #[track_caller]
    pub fn refused(self, code: &str) -> Self {
        assert_eq!(self.code().as_deref(), Some(code), "{self:?}");
        self
    }
}

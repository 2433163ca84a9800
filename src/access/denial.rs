//! The closed list of reasons for which the gateway itself answers a request. No match on it has a `_` arm: a new reason makes
//! the compiler name every place to touch.

/// Why a request was not forwarded, or why its forwarding came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Denial {
    BadRequest,
    BodyTooLarge,
    UriTooLong,
    HeadersTooLarge,
    MethodNotAllowed,
    UnknownHost,
    InvalidRequest,
    MissingApiKey,
    EnvironmentMismatch,
    InvalidApiKey,
    RevokedApiKey,
    ExpiredApiKey,
    PausedApiKey,
    IpNotAllowed,
    AccountSuspended,
    InsufficientPermissions,
    RateLimited,
    TooManyFailures,
    GatewayNotReady,
    Overloaded,
    UpstreamUnreachable,
    UpstreamBroken,
    UpstreamTimeout,
}

/// What is told of one denial.
struct Told {
    status: u16,
    /// Stable name: reply, metric label, log field and page all show this one.
    code: &'static str,
    title: &'static str,
    detail: &'static str,
}

impl Denial {
    /// In the order of the decision table.
    pub const ALL: [Self; 23] = [
        Self::BadRequest,
        Self::BodyTooLarge,
        Self::UriTooLong,
        Self::HeadersTooLarge,
        Self::MethodNotAllowed,
        Self::UnknownHost,
        Self::InvalidRequest,
        Self::MissingApiKey,
        Self::EnvironmentMismatch,
        Self::InvalidApiKey,
        Self::RevokedApiKey,
        Self::ExpiredApiKey,
        Self::PausedApiKey,
        Self::IpNotAllowed,
        Self::AccountSuspended,
        Self::InsufficientPermissions,
        Self::RateLimited,
        Self::TooManyFailures,
        Self::GatewayNotReady,
        Self::Overloaded,
        Self::UpstreamUnreachable,
        Self::UpstreamBroken,
        Self::UpstreamTimeout,
    ];

    /// Its place in [`Denial::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The stable name.
    pub const fn code(self) -> &'static str {
        self.told().code
    }

    /// The HTTP status of the reply.
    pub const fn status(self) -> u16 {
        self.told().status
    }

    /// A few words for people, the same for each reply of this kind.
    pub const fn title(self) -> &'static str {
        self.told().title
    }

    /// A sentence on what happened and what would help, where nothing more is known of the request.
    pub const fn detail(self) -> &'static str {
        self.told().detail
    }

    /// The error code of RFC 6750 for the `WWW-Authenticate` field; `Some(None)` for a challenge without one.
    pub const fn challenge(self) -> Option<Option<&'static str>> {
        match self {
            Self::InvalidRequest => Some(Some("invalid_request")),
            Self::MissingApiKey => Some(None),
            Self::EnvironmentMismatch | Self::InvalidApiKey | Self::RevokedApiKey | Self::ExpiredApiKey | Self::PausedApiKey => {
                Some(Some("invalid_token"))
            }
            Self::InsufficientPermissions => Some(Some("insufficient_scope")),
            Self::BadRequest
            | Self::BodyTooLarge
            | Self::UriTooLong
            | Self::HeadersTooLarge
            | Self::MethodNotAllowed
            | Self::UnknownHost
            | Self::IpNotAllowed
            | Self::AccountSuspended
            | Self::RateLimited
            | Self::TooManyFailures
            | Self::GatewayNotReady
            | Self::Overloaded
            | Self::UpstreamUnreachable
            | Self::UpstreamBroken
            | Self::UpstreamTimeout => None,
        }
    }

    /// Seconds after which a client may try again, for the kinds that say so.
    pub const fn retry_after(self) -> Option<u32> {
        match self {
            Self::RateLimited | Self::TooManyFailures | Self::Overloaded => Some(1),
            Self::GatewayNotReady => Some(5),
            Self::BadRequest
            | Self::BodyTooLarge
            | Self::UriTooLong
            | Self::HeadersTooLarge
            | Self::MethodNotAllowed
            | Self::UnknownHost
            | Self::InvalidRequest
            | Self::MissingApiKey
            | Self::EnvironmentMismatch
            | Self::InvalidApiKey
            | Self::RevokedApiKey
            | Self::ExpiredApiKey
            | Self::PausedApiKey
            | Self::IpNotAllowed
            | Self::AccountSuspended
            | Self::InsufficientPermissions
            | Self::UpstreamUnreachable
            | Self::UpstreamBroken
            | Self::UpstreamTimeout => None,
        }
    }

    const fn told(self) -> Told {
        let (status, code, title, detail) = match self {
            Self::BadRequest => (400, "bad_request", "Bad request", "The request is not framed as HTTP requires."),
            Self::BodyTooLarge => (413, "body_too_large", "Body too large", "The body of the request is larger than this gateway accepts."),
            Self::UriTooLong => (414, "uri_too_long", "URI too long", "The target of the request is longer than this gateway accepts."),
            Self::HeadersTooLarge => (
                431,
                "headers_too_large",
                "Headers too large",
                "The header fields of the request are more or larger than this gateway accepts.",
            ),
            Self::MethodNotAllowed => (405, "method_not_allowed", "Method not allowed", "TRACE and CONNECT are not served here."),
            Self::UnknownHost => (421, "unknown_host", "Unknown host", "No environment is served under this host name."),
            Self::InvalidRequest => {
                (400, "invalid_request", "Invalid request", "Send exactly one Authorization field with exactly one Bearer value.")
            }
            Self::MissingApiKey => (401, "missing_api_key", "Missing API key", "Send the API key as `Authorization: Bearer sk_...`."),
            Self::EnvironmentMismatch => (
                401,
                "environment_mismatch",
                "Environment mismatch",
                "The API key belongs to the other environment: sk_live_ keys work in production, sk_test_ keys in the sandbox.",
            ),
            Self::InvalidApiKey => (401, "invalid_api_key", "Invalid API key", "The API key is not known."),
            Self::RevokedApiKey => (401, "revoked_api_key", "Revoked API key", "The API key was revoked. Create another one."),
            Self::ExpiredApiKey => (401, "expired_api_key", "Expired API key", "The API key has expired. Create or rotate to another one."),
            Self::PausedApiKey => (401, "paused_api_key", "Paused API key", "The API key is paused. Resume it to use it again."),
            Self::IpNotAllowed => {
                (403, "ip_not_allowed", "IP address not allowed", "The IP restrictions of the API key do not list this client address.")
            }
            Self::AccountSuspended => (403, "account_suspended", "Account suspended", "The account of the API key is suspended."),
            Self::InsufficientPermissions => {
                (403, "insufficient_permissions", "Insufficient permissions", "The permissions of the API key do not cover this request.")
            }
            Self::RateLimited => (429, "rate_limited", "Rate limited", "The API key or its account is over its rate."),
            Self::TooManyFailures => {
                (429, "too_many_failures", "Too many failures", "Too many requests from this address carried no valid API key.")
            }
            Self::GatewayNotReady => {
                (503, "gateway_not_ready", "Gateway not ready", "The gateway cannot judge API keys at the moment. Try again.")
            }
            Self::Overloaded => (503, "overloaded", "Overloaded", "The gateway has more work than it can do in time. Try again."),
            Self::UpstreamUnreachable => (502, "upstream_unreachable", "Upstream unreachable", "No connection to the API could be made."),
            Self::UpstreamBroken => (502, "upstream_broken", "Upstream broken", "The API sent no complete HTTP reply."),
            Self::UpstreamTimeout => (504, "upstream_timeout", "Upstream timeout", "The API did not begin to reply in time."),
        };
        Told { status, code, title, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_denial_stands_at_its_own_place_with_a_code_of_its_own() {
        for (place, denial) in Denial::ALL.into_iter().enumerate() {
            assert_eq!(denial.index(), place);
            assert_eq!(Denial::ALL.into_iter().filter(|other| other.code() == denial.code()).count(), 1);
        }
    }

    #[test]
    fn trouble_of_ours_is_never_the_callers_fault() {
        use Denial::*;
        for denial in [GatewayNotReady, Overloaded, UpstreamUnreachable, UpstreamBroken, UpstreamTimeout] {
            assert!(denial.status() >= 500, "{denial:?}");
        }
    }

    #[test]
    fn every_401_challenges() {
        for denial in Denial::ALL {
            assert!(denial.status() != 401 || denial.challenge().is_some(), "{denial:?}");
        }
    }
}

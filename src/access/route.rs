//! Routes: from a method and a path to the permission that it needs.
//!
//! A route is a method and a pattern of literal segments, `{name}` for one segment that is not empty, and a final `*` for
//! one or more. Compared from the left a literal is more specific than `{name}`, that than `*`; the most specific route wins.

use std::collections::BTreeMap;
use std::fmt;

use super::path;
use super::permission::PermissionName;

/// A method and a path pattern, as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    method: Box<str>,
    segments: Box<[Segment]>,
    text: Box<str>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Segment {
    Literal(Box<str>),
    /// `{name}`; the name is for people.
    One,
    /// A final `*`.
    Rest,
}

impl Route {
    /// Parses `POST /api/v1/payments/charges/{id}/*`.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (method, pattern) =
            text.split_once(' ').ok_or_else(|| format!("`{}` is no route: write a method, a space and a path", text.escape_debug()))?;
        if method.is_empty() || !method.bytes().all(|c| c.is_ascii_uppercase() || c == b'-') {
            return Err(format!("`{}` is no method: methods are upper case, such as POST", method.escape_debug()));
        }
        let segments = parse_pattern(pattern)?;
        Ok(Self { method: method.into(), segments, text: text.into() })
    }

    /// Whether two routes match the same requests: names of segments do not count.
    pub fn same_as(&self, other: &Self) -> bool {
        self.method == other.method && self.segments == other.segments
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

fn parse_pattern(pattern: &str) -> Result<Box<[Segment]>, String> {
    let rest = pattern.strip_prefix('/').ok_or_else(|| format!("`{}` must begin with a slash", pattern.escape_debug()))?;
    let parts: Vec<&str> = rest.split('/').collect();
    let last = parts.len() - 1;
    let parse = |(place, part): (usize, &&str)| match *part {
        "*" if place == last => Ok(Segment::Rest),
        "" if place < last => Err(format!("`{}` has an empty segment", pattern.escape_debug())),
        part => parse_segment(part),
    };
    parts.iter().enumerate().map(parse).collect()
}

fn parse_segment(part: &str) -> Result<Segment, String> {
    if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        let valid = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        return valid.then_some(Segment::One).ok_or_else(|| format!("`{}` needs a name of letters, digits and `_`", part.escape_debug()));
    }
    if part.contains('*') {
        return Err(format!("`{}`: `*` stands alone, as the last segment", part.escape_debug()));
    }
    path::check(format!("/{part}").as_bytes())
        .map_err(|fault| format!("`{}` matches no request: {}", part.escape_debug(), fault.detail()))?;
    Ok(Segment::Literal(path::normalized(part).into()))
}

/// All routes that permissions name: a tree of segments for each method.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RouteTable {
    methods: BTreeMap<Box<str>, Node>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Node {
    literals: BTreeMap<Box<str>, Node>,
    one: Option<Box<Node>>,
    rest: Option<Needed>,
    here: Option<Needed>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Needed {
    permission: PermissionName,
    /// A HEAD that only a route for GET names.
    covered: bool,
}

impl RouteTable {
    /// Adds a route that needs `permission`.
    ///
    /// # Errors
    /// The permission that the same method and pattern needs already; nothing is changed then.
    pub fn add(&mut self, route: &Route, permission: &PermissionName) -> Result<(), PermissionName> {
        match claim(self.place_of(&route.method, route), permission) {
            Some(Needed { permission: other, .. }) => Err(other),
            None if &*route.method == "GET" => {
                // GET covers HEAD, but gives way to a route that names HEAD itself.
                self.place_of("HEAD", route).get_or_insert_with(|| Needed { permission: permission.clone(), covered: true });
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn place_of(&mut self, method: &str, route: &Route) -> &mut Option<Needed> {
        let mut node = self.methods.entry(method.into()).or_default();
        for segment in &route.segments {
            node = match segment {
                Segment::Literal(literal) => node.literals.entry(literal.clone()).or_default(),
                Segment::One => node.one.get_or_insert_default(),
                Segment::Rest => return &mut node.rest,
            };
        }
        &mut node.here
    }

    /// The permission that a request needs, by the most specific route; None if no route names it. The path is one that
    /// passed [`path::check`].
    pub fn permission(&self, method: &str, path: &str) -> Option<&PermissionName> {
        self.methods.get(method)?.find(path.strip_prefix('/')).map(|needed| &needed.permission)
    }
}

impl Node {
    /// `rest` is what is left of the path behind a slash; None at its end.
    fn find(&self, rest: Option<&str>) -> Option<&Needed> {
        let Some(rest) = rest else { return self.here.as_ref() };
        let (segment, behind) = rest.split_once('/').map_or((rest, None), |(segment, behind)| (segment, Some(behind)));
        if let Some(found) = self.literals.get(path::normalized(segment).as_ref()).and_then(|node| node.find(behind)) {
            return Some(found);
        }
        if segment.is_empty() {
            return None;
        }
        self.one.as_ref().and_then(|node| node.find(behind)).or(self.rest.as_ref())
    }
}

/// Takes a place, or gives back what holds it.
fn claim(place: &mut Option<Needed>, permission: &PermissionName) -> Option<Needed> {
    match place {
        Some(other) if !other.covered => Some(other.clone()),
        place => {
            *place = Some(Needed { permission: permission.clone(), covered: false });
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[&str]) -> RouteTable {
        let mut table = RouteTable::default();
        for (place, route) in routes.iter().enumerate() {
            let permission = PermissionName::parse(&format!("r:{place}")).unwrap();
            table.add(&Route::parse(route).unwrap(), &permission).unwrap();
        }
        table
    }

    /// The routes of a table, a request, and the place of the route that must win.
    #[track_caller]
    fn check(routes: &[&str], request: &str, winner: Option<usize>) {
        let table = table(routes);
        let (method, path) = request.split_once(' ').unwrap();
        let expected = winner.map(|place| format!("r:{place}"));
        assert_eq!(table.permission(method, path).map(ToString::to_string), expected, "{request}");
    }

    #[test]
    fn methods_are_exact_and_get_covers_head() {
        check(&["GET /a"], "GET /a", Some(0));
        check(&["GET /a"], "HEAD /a", Some(0));
        check(&["GET /a"], "POST /a", None);
        check(&["GET /a", "HEAD /a"], "HEAD /a", Some(1));
        check(&["HEAD /a", "GET /a"], "HEAD /a", Some(0));
        check(&["HEAD /*", "GET /admin/x"], "HEAD /admin/x", Some(1));
    }

    #[test]
    fn the_most_specific_route_wins_from_the_left() {
        let routes = ["GET /a/b", "GET /a/{x}", "GET /a/*", "GET /{x}/b", "GET /*"];
        check(&routes, "GET /a/b", Some(0));
        check(&routes, "GET /a/c", Some(1));
        check(&routes, "GET /a/c/d", Some(2));
        check(&routes, "GET /z/b", Some(3));
        check(&routes, "GET /z", Some(4));
        check(&routes, "GET /z/y/x", Some(4));
    }

    #[test]
    fn a_dead_end_on_the_left_falls_back_to_the_less_specific() {
        check(&["GET /a/b/c", "GET /a/{x}/d"], "GET /a/b/d", Some(1));
        check(&["GET /a/b/c", "GET /*"], "GET /a/b", Some(1));
    }

    #[test]
    fn a_trailing_slash_is_another_path_and_no_placeholder_takes_an_empty_segment() {
        check(&["GET /a"], "GET /a/", None);
        check(&["GET /a/"], "GET /a/", Some(0));
        check(&["GET /a/{x}", "GET /a/*"], "GET /a/", None);
        check(&["GET /a/*"], "GET /a", None);
        check(&["GET /a/*"], "GET /a/b/", Some(0));
        check(&["GET /"], "GET /", Some(0));
        check(&["GET /*"], "GET /", None);
    }

    #[test]
    fn encoded_unreserved_characters_match_their_plain_form() {
        check(&["GET /charges/{id}"], "GET /%63harges/1", Some(0));
        check(&["GET /a%7eb"], "GET /a~b", Some(0));
        check(&["GET /a%3Ab"], "GET /a%3ab", Some(0));
        check(&["GET /a:b"], "GET /a%3Ab", None);
    }

    #[test]
    fn the_same_method_and_pattern_twice_names_the_first() {
        let mut table = table(&["GET /a/{x}"]);
        let again = Route::parse("GET /a/{y}").unwrap();
        let other = PermissionName::parse("other:x").unwrap();
        assert_eq!(table.add(&again, &other).unwrap_err().to_string(), "r:0");
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for text in [
            "",
            "GET",
            "/a",
            "get /a",
            "GET a",
            "GET /a//b",
            "GET /a/*/b",
            "GET /a*",
            "GET /{}",
            "GET /{a b}",
            "GET /..",
            "GET /a%2Fb",
            "GET  /a",
            "GET /a?b",
        ] {
            assert!(Route::parse(text).is_err(), "{text}");
        }
    }
}

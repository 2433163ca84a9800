//! `explain`: each row of the decision that a request can be explained by.

use serde_json::{Value, json};

use super::machine::{Machine, text};

const CHARGES: &str = "https://api.martis.test/charges";
const RULES: [&str; 12] = [
    "framing",
    "method",
    "host",
    "credential",
    "prefix",
    "ready",
    "known",
    "environment",
    "status",
    "ip_restrictions",
    "account",
    "permissions",
];

struct Case {
    machine: Machine,
    key: Value,
}

impl Case {
    fn of_a_key(arguments: &[&str]) -> Self {
        let machine = Machine::with_account();
        let key = machine.make_key(arguments);
        Self { machine, key }
    }

    fn explain(&self, method: &str, url: &str) -> Value {
        self.machine.ask(&["explain", method, url, "--from", "192.0.2.7", "--key", text(&self.key, "id")])
    }

    /// What a request with the key comes to: the code, and at which rule.
    #[track_caller]
    fn comes_to(&self, method: &str, url: &str, decision: &str, status: Option<u16>, last: &str) -> Value {
        let explanation = self.explain(method, url);
        check(&explanation, decision, status, last);
        explanation
    }
}

/// All rules up to the last one are there, in their order, and only that one is not met.
#[track_caller]
fn check(explanation: &Value, decision: &str, status: Option<u16>, last: &str) {
    assert_eq!((text(explanation, "decision"), &explanation["status"]), (decision, &json!(status)), "{explanation}");
    let steps = explanation["steps"].as_array().unwrap();
    let rules: Vec<_> = steps.iter().map(|step| text(step, "rule")).collect();
    assert_eq!(rules, RULES[..=RULES.iter().position(|rule| *rule == last).unwrap()], "{explanation}");
    for step in steps {
        assert_eq!(step["met"], json!(step["rule"] != last || decision == "forwarded"), "{explanation}");
        assert!(!text(step, "detail").is_empty(), "{explanation}");
    }
}

#[test]
fn a_request_that_passes_has_met_every_rule_in_the_order_of_the_decision() {
    let case =
        Case::of_a_key(&["production", "--permission", "payments.charges:read", "--allow-ip", "192.0.2.0/24", "--expires-in", "30d"]);
    let explanation = case.comes_to("GET", CHARGES, "forwarded", None, "permissions");
    assert_eq!((text(&explanation, "upstream"), text(&explanation, "environment")), ("core", "production"));
    assert_eq!((&explanation["key_id"], &explanation["account"]), (&case.key["id"], &case.key["account"]));
    assert_eq!(text(&explanation, "client_address"), "192.0.2.7");
    assert_eq!(text(&explanation["steps"][9], "detail"), "The IP restrictions list 192.0.2.0/24.");
    assert_eq!(text(&explanation["steps"][11], "detail"), "GET /charges needs payments.charges:read, which the key has.");
}

#[test]
fn what_is_wrong_with_the_head_is_told_before_the_key_is_looked_at() {
    let case = Case::of_a_key(&["production"]);
    case.comes_to("GET", "https://api.martis.test/a/../b", "bad_request", Some(400), "framing");
    case.comes_to("GET", "https://api.martis.test/a b", "bad_request", Some(400), "framing");
    case.comes_to("GET", "https://api.martis.test/a?b c", "bad_request", Some(400), "framing");
    case.comes_to("GET", &format!("https://api.martis.test/{}", "a".repeat(9000)), "uri_too_long", Some(414), "framing");
    case.comes_to("TRACE", CHARGES, "method_not_allowed", Some(405), "method");
    let unknown = case.comes_to("GET", "https://elsewhere.martis.test/", "unknown_host", Some(421), "host");
    assert_eq!(text(&unknown, "detail"), "No environment is served under elsewhere.martis.test.");
}

#[test]
fn a_fragment_is_not_sent_and_so_not_judged() {
    Case::of_a_key(&["production"]).comes_to("GET", "https://API.martis.test:443/charges?a=b#c", "forwarded", None, "permissions");
}

#[test]
fn what_is_wrong_with_the_key_is_told_in_its_own_words() {
    let case = Case::of_a_key(&["sandbox"]);
    let told = case.comes_to("GET", CHARGES, "environment_mismatch", Some(401), "prefix");
    assert_eq!(text(&told, "detail"), "The key is for sandbox, api.martis.test is production.");
    // As it is with the secret in hand.
    let arguments = ["explain", "GET", CHARGES, "--from", "192.0.2.7", "--secret-stdin", "--json"];
    assert_eq!(case.machine.run_with_input(&arguments, text(&case.key, "secret")).done().json()["decision"], told["decision"]);

    let case = Case::of_a_key(&["production", "--permission", "payments.charges:read", "--allow-ip", "203.0.113.0/24"]);
    let id = text(&case.key, "id");
    let told = case.comes_to("POST", CHARGES, "ip_not_allowed", Some(403), "ip_restrictions");
    assert!(text(&told, "detail").contains("192.0.2.7") && text(&told, "detail").contains("203.0.113.0/24"), "{told}");

    case.machine.run(&["keys", "restrict", id, "--off"]).done();
    let told = case.comes_to("POST", CHARGES, "insufficient_permissions", Some(403), "permissions");
    assert_eq!(text(&told, "detail"), "POST /charges needs payments.charges:write; the key has payments.charges:read.");
    let told = case.comes_to("GET", "https://api.martis.test/other", "insufficient_permissions", Some(403), "permissions");
    assert!(text(&told, "detail").starts_with("No permission names GET /other"), "{told}");

    case.machine.run(&["accounts", "suspend", "Acme"]).done();
    let told = case.comes_to("GET", CHARGES, "account_suspended", Some(403), "account");
    assert_eq!(text(&told, "detail"), "The account Acme is suspended.");

    case.machine.run(&["keys", "pause", id]).done();
    case.comes_to("GET", CHARGES, "paused_api_key", Some(401), "status");
    case.machine.run(&["keys", "revoke", id]).done();
    let told = case.comes_to("GET", CHARGES, "revoked_api_key", Some(401), "status");
    assert!(text(&told, "detail").starts_with("The key was revoked at 2"), "{told}");
}

#[test]
fn a_key_that_has_expired_is_told_with_the_moment() {
    let machine = Machine::with_account();
    let line = json!({"digest": "0".repeat(64), "account": "Acme", "name": "Old", "environment": "production", "expires_at": "2020-01-01T00:00:00Z"});
    std::fs::write(machine.path("keys.ndjson"), line.to_string()).unwrap();
    machine.run(&["keys", "import", "keys.ndjson"]).done();
    let key = machine.ask(&["keys", "list"])["items"][0].clone();
    let told = Case { machine, key }.comes_to("GET", CHARGES, "expired_api_key", Some(401), "status");
    assert_eq!(text(&told, "detail"), "The key expired at 2020-01-01T00:00:00Z.");
}

#[test]
fn a_secret_that_stands_in_the_url_is_shown_as_its_hint() {
    let case = Case::of_a_key(&["production"]);
    let secret = text(&case.key, "secret");
    let url = format!("{CHARGES}/{secret}?key={secret}");
    let arguments = ["explain", "GET", &url, "--from", "192.0.2.7", "--key", text(&case.key, "id")];
    for form in [&[][..], &["--json"]] {
        let ran = case.machine.run(&[&arguments[..], form].concat()).done();
        assert!(!ran.out.contains(secret) && !ran.err.contains(secret));
        assert!(ran.out.contains(text(&case.key, "hint")), "{}", ran.out);
    }
}

#[test]
fn a_secret_is_read_from_standard_input_and_not_repeated() {
    let case = Case::of_a_key(&["production"]);
    let secret = text(&case.key, "secret");
    let arguments = ["explain", "GET", CHARGES, "--from", "192.0.2.7", "--secret-stdin"];
    let asked = |secret: &str| {
        let ran = case.machine.run_with_input(&[&arguments[..], &["--json"]].concat(), secret).done();
        assert!(secret.is_empty() || !ran.out.contains(secret.trim()));
        ran.json()
    };
    let passes = asked(&format!("{secret}\n"));
    check(&passes, "forwarded", None, "permissions");
    assert_eq!(passes["key_id"], case.key["id"]);
    check(&asked(&secret.replace("sk_live_", "sk_test_")), "environment_mismatch", Some(401), "prefix");
    check(&asked("sk_live_nobodys\n"), "invalid_api_key", Some(401), "known");
    check(&asked("anything"), "invalid_api_key", Some(401), "known");
    check(&asked("one,two"), "invalid_request", Some(400), "credential");

    let told = case.machine.run_with_input(&arguments, secret).done();
    told.prints(&["forwarded  GET https://api.martis.test/charges", "✓ framing", "✓ permissions"]);
    case.machine.run_with_input(&arguments, "\n").failed().complains(&["standard input is empty"]);
    case.machine.run_with_input(&arguments, "sk_live_a\nsk_live_b").failed().complains(&["one line of visible characters"]);
}

#[test]
fn people_see_the_rule_that_refused() {
    let case = Case::of_a_key(&["sandbox"]);
    let arguments = ["explain", "GET", CHARGES, "--from", "192.0.2.7", "--key", text(&case.key, "id")];
    case.machine.run(&arguments).done().prints(&["401 environment_mismatch", "✓ credential", "✗ prefix"]);
}

#[test]
fn a_question_that_makes_no_sense_is_wrong_usage() {
    let machine = Machine::with_account();
    let key = "key_00000000000000000000000000";
    let wrong = |arguments: &[&str], said: &str| drop(machine.run(&[&["explain"], arguments].concat()).wrong_usage().complains(&[said]));
    wrong(&["get", CHARGES, "--from", "192.0.2.7", "--key", key], "upper case");
    wrong(&["GET", "/charges", "--from", "192.0.2.7", "--key", key], "this is no URL");
    wrong(&["GET", "https://", "--from", "192.0.2.7", "--key", key], "this is no URL");
    wrong(&["GET", CHARGES, "--from", "here", "--key", key], "invalid IP address");
    wrong(&["GET", CHARGES, "--from", "192.0.2.7"], "--key <ID>|--secret-stdin");
    wrong(&["GET", CHARGES, "--from", "192.0.2.7", "--key", key, "--secret-stdin"], "cannot be used with");
    machine.run(&["explain", "GET", CHARGES, "--from", "192.0.2.7", "--key", key]).failed().complains(&["there is no key"]);
}

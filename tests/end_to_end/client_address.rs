//! Whose address a request is taken to come from: the socket's, what trusted proxies say, and what a PROXY header says; and that
//! nobody else is believed.

use crate::support::gateway::{Setup, TestGateway};
use crate::support::http1::Http1;
use crate::support::http2::Http2;
use crate::support::keys::a_key_for;
use crate::support::message::{Reply, Request};
use crate::support::upstream::TestUpstream;

const CLIENT: &str = "203.0.113.7";

async fn gateway(change: impl FnOnce(Setup) -> Setup) -> (TestUpstream, TestGateway) {
    let upstream = TestUpstream::echo().await;
    let gateway = change(Setup::before(upstream.address)).start().await;
    (upstream, gateway)
}

fn forwarded(request: Request, fields: &[(&str, &str)]) -> Request {
    fields.iter().fold(request, |request, (name, value)| request.field(name, value))
}

#[tokio::test]
async fn nobody_is_believed_who_is_not_trusted() {
    let (upstream, gateway) = gateway(|setup| setup.trusting("192.0.2.0/24")).await;
    let key = gateway.keys.make(a_key_for(&[CLIENT])).await;
    let lies = [("x-forwarded-for", CLIENT), ("forwarded", "for=203.0.113.7"), ("x-real-ip", CLIENT), ("x-forwarded-proto", "https")];
    let reply = gateway.ask(&forwarded(Request::get("/").with(&key), &lies)).await;
    assert_eq!(reply.refused("ip_not_allowed").json()["client_address"], "127.0.0.1");
    gateway.ask(&forwarded(Request::get("/").with(&gateway.live), &lies)).await.passed();
    let received = upstream.request();
    assert_eq!((received.field("x-forwarded-for"), received.field("x-forwarded-proto")), (Some("127.0.0.1"), Some("http")));
}

/// Checks which client is seen behind a trusted proxy that sends these lines; none: unknown.
async fn sees(gateway: &TestGateway, key: &crate::support::keys::TestKey, name: &str, lines: &[&str], client: Option<&str>) {
    let fields: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
    let reply = gateway.ask(&forwarded(Request::get("/").with(key), &fields)).await.refused("ip_not_allowed");
    assert_eq!(reply.json()["client_address"], serde_json::json!(client), "{name}: {lines:?}");
}

#[tokio::test]
async fn x_forwarded_for_is_read_from_the_right_past_trusted_entries() {
    let (_upstream, gateway) = gateway(|setup| setup.trusting("127.0.0.1").trusting("10.0.0.0/8")).await;
    let key = gateway.keys.make(a_key_for(&["192.0.2.255"])).await;
    let cases: [(&[&str], Option<&str>); 16] = [
        (&[], Some("127.0.0.1")),
        (&["203.0.113.7"], Some(CLIENT)),
        (&["198.51.100.1, 203.0.113.7"], Some(CLIENT)),
        (&["198.51.100.1, 203.0.113.7, 10.0.0.1, 10.9.9.9"], Some(CLIENT)),
        (&["198.51.100.1", "203.0.113.7", "10.0.0.1"], Some(CLIENT)),
        (&["10.0.0.1, 10.0.0.2"], Some("10.0.0.1")),
        (&["2001:db8::1"], Some("2001:db8::1")),
        (&["::ffff:203.0.113.7"], Some(CLIENT)),
        (&["203.0.113.7", ""], Some(CLIENT)),
        (&["client.example, 203.0.113.7"], Some(CLIENT)),
        (&["203.0.113.7, unknown"], None),
        (&["203.0.113.7, _hidden, 10.0.0.1"], None),
        (&["203.0.113.007"], None),
        (&["203.0.113.7:443"], None),
        (&["203.0.113"], None),
        (&["fe80::1%eth0"], None),
    ];
    for (lines, client) in cases {
        sees(&gateway, &key, "x-forwarded-for", lines, client).await;
    }
}

#[tokio::test]
async fn forwarded_is_read_where_it_is_the_field_of_the_proxies() {
    let section = |setup: Setup| setup.trusting("127.0.0.1").client_address("header = \"forwarded\"");
    let (upstream, gateway) = gateway(section).await;
    let key = gateway.keys.make(a_key_for(&["192.0.2.255"])).await;
    let cases: [(&[&str], Option<&str>); 9] = [
        (&["for=203.0.113.7"], Some(CLIENT)),
        (&["for=198.51.100.1, for=203.0.113.7;proto=https"], Some(CLIENT)),
        (&["For=\"203.0.113.7:443\""], Some(CLIENT)),
        (&["for=\"[2001:db8::1]:443\""], Some("2001:db8::1")),
        (&["for=203.0.113.7", "for=127.0.0.1"], Some(CLIENT)),
        (&["for=unknown"], None),
        (&["for=_secret"], None),
        (&["proto=https"], None),
        (&["for=203.0.113.7, \""], None),
    ];
    for (lines, client) in cases {
        sees(&gateway, &key, "forwarded", lines, client).await;
    }
    sees(&gateway, &key, "x-forwarded-for", &[CLIENT], Some("127.0.0.1")).await;

    let said = [("forwarded", "for=203.0.113.7;proto=https;host=shop.example")];
    gateway.ask(&forwarded(Request::get("/").with(&gateway.live), &said)).await.passed();
    let received = upstream.request();
    assert_eq!((received.field("x-forwarded-proto"), received.field("x-forwarded-host")), (Some("https"), Some("shop.example")));
    assert_eq!((received.field("x-forwarded-for"), received.field("forwarded")), (Some(CLIENT), None));
}

#[tokio::test]
async fn the_upstream_is_told_one_client_and_what_the_last_trusted_proxy_said() {
    let (upstream, gateway) = gateway(|setup| setup.trusting("127.0.0.1")).await;
    let said = [
        ("x-forwarded-for", "198.51.100.1, 203.0.113.7"),
        ("x-forwarded-proto", "http, https"),
        ("x-forwarded-host", "evil.example, shop.example"),
        ("x-forwarded-port", "444"),
    ];
    let request = forwarded(Request::get("/").with(&gateway.live), &said);
    gateway.ask(&request).await.passed();
    Http2::connect(gateway.address).await.ask(&request).await.passed();
    for received in upstream.requests() {
        let told = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"].map(|name| received.field(name));
        assert_eq!(told, [Some(CLIENT), Some("https"), Some("shop.example"), None]);
    }
    let odd = [("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a b")];
    gateway.ask(&forwarded(Request::get("/").with(&gateway.live), &odd)).await.passed();
    let received = upstream.requests().pop().unwrap();
    assert_eq!((received.field("x-forwarded-proto"), received.field("x-forwarded-host")), (Some("http"), Some("api.martis.test")));
}

#[tokio::test]
async fn an_unknown_client_passes_only_where_addresses_do_not_matter_and_is_told_to_nobody() {
    let (upstream, gateway) = gateway(|setup| setup.trusting("127.0.0.1")).await;
    let everywhere = gateway.keys.make(a_key_for(&["0.0.0.0/1", "128.0.0.0/1"])).await;
    let unknown = [("x-forwarded-for", "unknown")];
    gateway.ask(&forwarded(Request::get("/").with(&everywhere), &unknown)).await.refused("ip_not_allowed");
    gateway.ask(&forwarded(Request::get("/").with(&gateway.live), &unknown)).await.passed();
    assert_eq!(upstream.request().field("x-forwarded-for"), None);
    let lines = gateway.log_lines(2).await;
    assert!(lines.iter().all(|line| line["client_address"].is_null() && line["peer"] == "127.0.0.1"), "{lines:#?}");
}

#[tokio::test]
async fn a_client_meets_the_restrictions_of_its_key_by_its_own_address() {
    let (_upstream, gateway) = gateway(|setup| setup.trusting("127.0.0.1")).await;
    let key = gateway.keys.make(a_key_for(&["203.0.113.0/24", "2001:db8::/32"])).await;
    let cases = [
        ("203.0.113.7", true),
        ("203.0.114.7", false),
        ("2001:db8:1::1", true),
        ("2001:db9::1", false),
        ("::ffff:203.0.113.7", true),
        ("::ffff:203.0.114.7", false),
    ];
    for (client, allowed) in cases {
        let reply = gateway.ask(&Request::get("/").with(&key).field("x-forwarded-for", client)).await;
        assert_eq!(reply.status, if allowed { 200 } else { 403 }, "{client}");
    }
}

/// A PROXY header of version 2 with this command, family and addresses.
fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, family], &length, addresses].concat()
}

fn ipv4(source: [u8; 4]) -> Vec<u8> {
    [&source[..], &[192, 0, 2, 1], &1234_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
}

fn ipv6(source: &str) -> Vec<u8> {
    let source: std::net::Ipv6Addr = source.parse().unwrap();
    [&source.octets()[..], &[0; 16], &1234_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
}

async fn behind_proxy(gateway: &TestGateway, header: &[u8], request: &Request) -> Reply {
    let mut client = Http1::connect(gateway.address).await;
    client.send(header).await;
    client.ask(request).await
}

#[tokio::test]
async fn a_proxy_header_says_who_the_peer_is() {
    let (_upstream, gateway) = gateway(|setup| setup.trusting("127.0.0.1").listener("proxy_protocol = true")).await;
    let key = gateway.keys.make(a_key_for(&["192.0.2.255"])).await;
    let headers: [(Vec<u8>, Option<&str>); 11] = [
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 1234 443\r\n".to_vec(), Some(CLIENT)),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 443\r\n".to_vec(), Some("2001:db8::1")),
        (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1234 443\r\n".to_vec(), Some(CLIENT)),
        (b"PROXY UNKNOWN\r\n".to_vec(), Some("127.0.0.1")),
        (version_2(1, 0x11, &ipv4([203, 0, 113, 7])), Some(CLIENT)),
        (version_2(1, 0x21, &ipv6("2001:db8::1")), Some("2001:db8::1")),
        (version_2(1, 0x21, &ipv6("::ffff:203.0.113.7")), Some(CLIENT)),
        (version_2(0, 0x00, &[]), Some("127.0.0.1")),
        (version_2(0, 0x11, &ipv4([203, 0, 113, 7])), Some("127.0.0.1")),
        (version_2(1, 0x00, &[]), Some("127.0.0.1")),
        (version_2(1, 0x31, &[0; 216]), None),
    ];
    for (header, client) in headers {
        let reply = behind_proxy(&gateway, &header, &Request::get("/").with(&key)).await.refused("ip_not_allowed");
        assert_eq!(reply.json()["client_address"], serde_json::json!(client), "{}", header.escape_ascii());
    }
    // With more behind the addresses, which is not for us.
    let extended = [ipv4([203, 0, 113, 7]), vec![4, 0, 3, b'a', b'b', b'c']].concat();
    behind_proxy(&gateway, &version_2(1, 0x11, &extended), &Request::get("/").with(&gateway.live)).await.passed();
}

#[tokio::test]
async fn a_connection_without_a_proper_proxy_header_is_closed() {
    let (upstream, gateway) = gateway(|setup| setup.trusting("127.0.0.1").listener("proxy_protocol = true")).await;
    let request = crate::support::http1::encode(&Request::get("/").with(&gateway.live));
    let headers: [&[u8]; 8] = [
        b"",
        b"PROXY\r\n",
        b"PROXY TCP4 203.0.113.7\r\n",
        b"PROXY TCP4 203.0.113.007 192.0.2.1 1234 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1234 443\r\n",
        b"PROXY TCP5 203.0.113.7 192.0.2.1 1234 443\r\n",
        b"proxy TCP4 203.0.113.7 192.0.2.1 1234 443\r\n",
        &version_2(2, 0x11, &ipv4([203, 0, 113, 7])),
    ];
    for header in headers {
        let mut client = Http1::connect(gateway.address).await;
        client.send([header, &request].concat()).await;
        assert!(client.ends().await, "{}", header.escape_ascii());
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_proxy_header_of_somebody_who_is_not_trusted_closes_the_connection() {
    let (upstream, gateway) = gateway(|setup| setup.trusting("192.0.2.1").listener("proxy_protocol = true")).await;
    let mut client = Http1::connect(gateway.address).await;
    let _ = client.try_send("PROXY TCP4 203.0.113.7 192.0.2.1 1234 443\r\nGET / HTTP/1.1\r\n\r\n").await;
    assert!(client.ends().await);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_proxy_header_on_another_listener_is_no_request() {
    let (upstream, gateway) = gateway(|setup| setup.trusting("127.0.0.1")).await;
    let reply = behind_proxy(&gateway, b"PROXY TCP4 203.0.113.7 192.0.2.1 1234 443\r\n", &Request::get("/").with(&gateway.live)).await;
    reply.refused("bad_request");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn the_peer_of_a_proxy_header_may_be_a_trusted_proxy_itself() {
    let setup = |setup: Setup| setup.trusting("127.0.0.1").trusting("10.0.0.1").listener("proxy_protocol = true");
    let (upstream, gateway) = gateway(setup).await;
    let request = Request::get("/").with(&gateway.live).field("x-forwarded-for", CLIENT);
    behind_proxy(&gateway, b"PROXY TCP4 10.0.0.1 192.0.2.1 1 2\r\n", &request).await.passed();
    behind_proxy(&gateway, b"PROXY TCP4 198.51.100.9 192.0.2.1 1 2\r\n", &request).await.passed();
    let told: Vec<_> = upstream.requests().iter().map(|received| received.field("x-forwarded-for").unwrap().to_owned()).collect();
    assert_eq!(told, [CLIENT, "198.51.100.9"]);
    let mut peers: Vec<_> = gateway.log_lines(2).await.iter().map(|line| line["peer"].as_str().unwrap().to_owned()).collect();
    peers.sort_unstable();
    assert_eq!(peers, ["10.0.0.1", "198.51.100.9"]);
}

//! TLS on both sides: which certificate is shown to whom, which are asked for, and that a reload changes them without a dropped
//! connection.

use std::net::SocketAddr;

use hyper::http::Version;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::gateway::{PRODUCTION, SANDBOX, Setup, TestGateway};
use crate::support::http1::{Http1, encode};
use crate::support::http2::{Http2, Http2Upstream};
use crate::support::message::Request;
use crate::support::tls::{Authority, Identity, TlsClient};
use crate::support::upstream::TestUpstream;
use crate::support::wait::within;

/// Certificates in a folder, and a gateway that shows one of them.
struct World {
    authority: Authority,
    folder: TempDir,
    upstream: TestUpstream,
}

impl World {
    async fn new() -> Self {
        Self { authority: Authority::new("tests"), folder: tempfile::tempdir().unwrap(), upstream: TestUpstream::echo().await }
    }

    fn sign(&self, name: &str) -> (Identity, String) {
        let identity = self.authority.sign(&[name]);
        let files = identity.write(self.folder.path(), name);
        (identity, files)
    }

    /// A listener that shows the certificates of these names, with more of TOML inside.
    fn listener(&self, names: &[&str], more: &str) -> String {
        let files: Vec<String> = names.iter().map(|name| self.sign(name).1).collect();
        format!("tls = {{ certificates = [{}]{more} }}", files.join(", "))
    }

    fn setup(&self, listener: &str) -> Setup {
        Setup::before(self.upstream.address).listener(listener)
    }

    fn client(&self) -> TlsClient<'_> {
        TlsClient::trusting(&self.authority)
    }
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn both_protocols_are_offered_and_chosen_by_the_client() {
    let world = World::new().await;
    let gateway = world.setup(&world.listener(&[PRODUCTION], "")).start().await;
    let request = Request::get("/").with(&gateway.live);

    let offers = ["h2", "http/1.1"];
    let stream = TlsClient { offers: &offers, ..world.client() }.connect(gateway.address, PRODUCTION).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    Http2::over(stream).await.ask(&request).await.passed();

    for offers in [&["http/1.1"][..], &[]] {
        let stream = TlsClient { offers, ..world.client() }.connect(gateway.address, PRODUCTION).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), offers.first().map(|protocol| protocol.as_bytes()));
        Http1::over(stream).ask(&request).await.passed();
    }
    assert!(TlsClient { offers: &["imap"], ..world.client() }.connect(gateway.address, PRODUCTION).await.is_err());

    let told: Vec<_> = world.upstream.requests().iter().map(|received| received.field("x-forwarded-proto").unwrap().to_owned()).collect();
    assert_eq!(told, ["https"; 3]);
}

#[tokio::test]
async fn the_certificate_is_the_one_of_the_name_that_is_asked_for() {
    let world = World::new().await;
    let ((production, one), (sandbox, two)) = (world.sign(PRODUCTION), world.sign(SANDBOX));
    let gateway = world.setup(&format!("tls = {{ certificates = [{one}, {two}] }}")).start().await;
    for (name, identity) in [(PRODUCTION, &production), (SANDBOX, &sandbox)] {
        let stream = world.client().connect(gateway.address, name).await.unwrap();
        assert_eq!(shown(&stream), identity.certificate.to_vec(), "{name}");
    }
    // Of a name that nobody has the first is shown, and the client finds that it is another's.
    let refusal = world.client().connect(gateway.address, "elsewhere.test").await.unwrap_err();
    assert!(refusal.to_string().contains("not valid for name"), "{refusal}");
}

#[tokio::test]
async fn old_and_new_versions_of_tls_are_spoken() {
    let world = World::new().await;
    let gateway = world.setup(&world.listener(&[PRODUCTION], "")).start().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let stream = world.client().connect_by(version, gateway.address, PRODUCTION).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        Http1::over(stream).ask(&Request::get("/").with(&gateway.live)).await.passed();
    }
}

/// Whether a client that shows this certificate, or none, is served.
async fn is_served(world: &World, gateway: &TestGateway, shows: Option<&Identity>) -> bool {
    let client = TlsClient { shows, ..world.client() };
    let Ok(stream) = client.connect(gateway.address, PRODUCTION).await else { return false };
    let mut client = Http1::over(stream);
    // With TLS 1.3 the client learns of its refusal only when it reads.
    let sent = client.try_send(encode(&Request::get("/").with(&gateway.live))).await;
    sent.is_ok() && client.until_end_or_reply().await.starts_with("HTTP/1.1 200 ")
}

#[tokio::test]
async fn clients_show_certificates_where_they_must_and_may() {
    let world = World::new().await;
    let (known, stranger) = (world.authority.sign(&["client.test"]), Authority::new("others").sign(&["client.test"]));
    let ca = world.authority.write(&world.folder.path().join("ca.pem"));
    for (demand, without) in [("required", false), ("optional", true)] {
        let more = format!(", client_ca = {ca:?}, client_certificate = {demand:?}");
        let gateway = world.setup(&world.listener(&[PRODUCTION], &more)).start().await;
        assert!(is_served(&world, &gateway, Some(&known)).await, "{demand}");
        assert!(!is_served(&world, &gateway, Some(&stranger)).await, "{demand}");
        assert_eq!(is_served(&world, &gateway, None).await, without, "{demand}");
    }
}

#[tokio::test]
async fn a_reload_shows_new_certificates_and_leaves_connections_open() {
    let world = World::new().await;
    let gateway = world.setup(&world.listener(&[PRODUCTION], "")).start().await;
    let before = world.client().connect(gateway.address, PRODUCTION).await.unwrap();
    let old = shown(&before);
    let mut open = Http1::over(before);

    let (fresh, _) = world.sign(PRODUCTION);
    let unchanged = world.client().connect(gateway.address, PRODUCTION).await.unwrap();
    assert_eq!(shown(&unchanged), old, "nothing is read before somebody says so");
    gateway.reload().await;
    let after = world.client().connect(gateway.address, PRODUCTION).await.unwrap();
    assert_eq!(shown(&after), fresh.certificate.to_vec());
    open.ask(&Request::get("/").with(&gateway.live)).await.passed();
}

#[tokio::test]
async fn a_reload_of_what_is_of_no_use_changes_nothing() {
    let world = World::new().await;
    let gateway = world.setup(&world.listener(&[PRODUCTION], "")).start().await;
    let good = shown(&world.client().connect(gateway.address, PRODUCTION).await.unwrap());
    let certificate = world.folder.path().join(format!("{PRODUCTION}.pem"));
    let spoil: [&dyn Fn(); 4] = [
        &|| std::fs::write(&certificate, "no certificate").unwrap(),
        &|| std::fs::remove_file(&certificate).unwrap(),
        // Over a year ago, and of another key.
        &|| drop(world.authority.sign_until(&[PRODUCTION], 2020).write(world.folder.path(), PRODUCTION)),
        &|| {
            world.sign(PRODUCTION);
            world.authority.sign(&[PRODUCTION]).write_key(world.folder.path(), PRODUCTION);
        },
    ];
    for (number, spoil) in spoil.iter().enumerate() {
        spoil();
        gateway.reload().await;
        let stream = world.client().connect(gateway.address, PRODUCTION).await.unwrap();
        assert_eq!(shown(&stream), good, "spoiled in way {number}");
    }
    let (fresh, _) = world.sign(PRODUCTION);
    gateway.reload().await;
    let stream = world.client().connect(gateway.address, PRODUCTION).await.unwrap();
    assert_eq!(shown(&stream), fresh.certificate.to_vec());
}

#[tokio::test]
async fn a_gateway_does_not_start_with_a_certificate_of_no_use() {
    let world = World::new().await;
    let expired = world.authority.sign_until(&[PRODUCTION], 2020).write(world.folder.path(), "expired");
    let (_, files) = world.sign(PRODUCTION);
    world.authority.sign(&[PRODUCTION]).write_key(world.folder.path(), PRODUCTION);
    for (files, reason) in [(expired, "expired"), (files, "do not belong together")] {
        let prepared = world.setup(&format!("tls = {{ certificates = [{files}] }}")).open().await;
        let error = prepared.try_start().await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains(reason), "{error:?}");
    }
}

#[tokio::test]
async fn when_certificates_end_is_told_as_a_metric() {
    let world = World::new().await;
    let files = world.authority.sign_until(&[PRODUCTION], 2100).write(world.folder.path(), "mine");
    let gateway = world.setup(&format!("tls = {{ certificates = [{files}] }}")).start().await;
    let page = gateway.page("/metrics").await;
    let left =
        page.text().lines().find_map(|line| line.strip_prefix("martis_gateway_certificate_expiry_seconds{certificate=\"mine.pem\"} "));
    let years = left.unwrap().parse::<f64>().unwrap() / 31_556_952.0;
    assert!((1.0..75.0).contains(&years), "{years}");
}

#[tokio::test]
async fn what_is_no_tls_gets_no_answer() {
    let world = World::new().await;
    let gateway = world.setup(&world.listener(&[PRODUCTION], "")).start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&Request::get("/").with(&gateway.live))).await;
    let answer = client.until_end().await;
    assert!(!answer.starts_with(b"HTTP"), "{:?}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let world = World::new().await;
    let setup = world.setup(&world.listener(&[PRODUCTION], "")).limit("tls_handshake_timeout", "50ms");
    let gateway = setup.start().await;
    let mut silent = Http1::connect(gateway.address).await;
    assert!(silent.ends().await);
    // A handshake of five bytes, and no more.
    let mut slow = Http1::connect(gateway.address).await;
    slow.send([22, 3, 1, 2, 0]).await;
    assert!(slow.ends().await);
}

#[tokio::test]
async fn a_proxy_header_stands_before_the_handshake() {
    let world = World::new().await;
    let listener = format!("proxy_protocol = true\n{}", world.listener(&[PRODUCTION], ""));
    let gateway = world.setup(&listener).trusting("127.0.0.1").start().await;
    let header = b"PROXY TCP4 203.0.113.7 192.0.2.1 1234 443\r\n";
    let stream = world.client().connect_behind(header, gateway.address, PRODUCTION).await.unwrap();
    Http1::over(stream).ask(&Request::get("/").with(&gateway.live)).await.passed();
    let received = world.upstream.request();
    assert_eq!((received.field("x-forwarded-for"), received.field("x-forwarded-proto")), (Some("203.0.113.7"), Some("https")));
}

/// A gateway before a server of TLS, with lines of TOML for the upstream.
async fn before_tls(server: SocketAddr, host: &str, lines: &str) -> TestGateway {
    Setup::before(server).servers(&[format!("https://{host}:{}", server.port())]).upstream(lines).start().await
}

#[tokio::test]
async fn an_upstream_proves_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, others) = (Authority::new("tests"), Authority::new("others"));
    let ca = authority.write(&folder.path().join("ca.pem"));
    let wrong = others.write(&folder.path().join("others.pem"));
    let upstream =
        TestUpstream::start_tls(authority.sign(&["localhost", "core.internal"]).acceptor(&["http/1.1"]), |mut exchange| async move {
            let body = exchange.body().await.unwrap_or_default();
            exchange.answer("200 OK", "", &body).await
        })
        .await;
    let by_address =
        TestUpstream::start_tls(authority.sign(&["127.0.0.1"]).acceptor(&[]), |exchange| exchange.answer("200 OK", "", b"")).await;

    let cases = [
        (upstream.address, "localhost", format!("ca = {ca:?}"), true),
        (upstream.address, "127.0.0.1", format!("ca = {ca:?}"), false),
        (upstream.address, "127.0.0.1", format!("ca = {ca:?}\nserver_name = \"core.internal\""), true),
        (upstream.address, "localhost", format!("ca = {ca:?}\nserver_name = \"other.internal\""), false),
        (upstream.address, "localhost", format!("ca = {wrong:?}"), false),
        (by_address.address, "127.0.0.1", format!("ca = {ca:?}"), true),
    ];
    for (server, host, lines, trusted) in cases {
        let gateway = before_tls(server, host, &lines).await;
        let reply = gateway.ask(&Request::get("/").with(&gateway.live)).await;
        if trusted {
            reply.passed();
        } else {
            assert_eq!((reply.status, reply.code().as_deref()), (502, Some("upstream_unreachable")), "{host} {lines}");
        }
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn an_upstream_without_tls_is_not_spoken_to_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("tests").write(&folder.path().join("ca.pem"));
    let upstream = TestUpstream::echo().await;
    let server = format!("https://{}", upstream.address);
    let setup = Setup::before(upstream.address).servers(&[server]).upstream(&format!("ca = {ca:?}"));
    let gateway = setup.limit("upstream_connect_timeout", "200ms").start().await;
    gateway.ask(&Request::get("/").with(&gateway.live)).await.refused("upstream_unreachable");
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn the_gateway_shows_an_upstream_its_own_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("tests");
    let ca = authority.write(&folder.path().join("ca.pem"));
    let mine = authority.sign(&["gateway.internal"]).write(folder.path(), "mine");
    let acceptor = authority.sign(&["localhost"]).acceptor_for_clients_of(&authority);
    let upstream = TestUpstream::start_tls(acceptor, |exchange| exchange.answer("200 OK", "", b"")).await;

    let gateway = before_tls(upstream.address, "localhost", &format!("ca = {ca:?}\nclient_certificate = {mine}")).await;
    gateway.ask(&Request::get("/").with(&gateway.live)).await.passed();
    let gateway = before_tls(upstream.address, "localhost", &format!("ca = {ca:?}")).await;
    assert_eq!(gateway.ask(&Request::get("/").with(&gateway.live)).await.status, 502);
}

#[tokio::test]
async fn http2_is_spoken_with_an_upstream_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("tests");
    let ca = authority.write(&folder.path().join("ca.pem"));
    let upstream = Http2Upstream::start_on(
        SocketAddr::from(([127, 0, 0, 1], 0)),
        Some(authority.sign(&["localhost"]).acceptor(&["h2"])),
        |_, mut respond| async move {
            respond.send_response(hyper::http::Response::new(()), true).unwrap();
        },
    )
    .await;
    let gateway = before_tls(upstream.address, "localhost", &format!("protocol = \"http2\"\nca = {ca:?}")).await;
    within(gateway.ask(&Request::get("/v1").with(&gateway.live))).await.passed();
    let received = upstream.request();
    assert_eq!((received.version, received.uri.to_string()), (Version::HTTP_2, format!("https://{PRODUCTION}/v1")));
}

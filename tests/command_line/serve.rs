//! `serve`: how a node is told to stop, and who notices.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::machine::{Machine, PATIENCE, eventually, text};

/// A node with a request in it that its upstream never answers, so that draining it takes for ever.
struct BusyNode {
    child: Child,
    admin: String,
    client: TcpStream,
    // The upstream's end: while it is open, it may yet answer.
    _upstream: TcpStream,
    _machine: Machine,
}

impl BusyNode {
    fn start() -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let machine = Machine::with_config(&format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[log]\naccess = \"off\"\n\
             [[upstreams]]\nname = \"core\"\nservers = [\"http://{}\"]\n\
             [limits]\nconnections = 100\nupstream_first_byte_timeout = \"off\"\ndrain_timeout = \"off\"\n",
            upstream.local_addr().unwrap()
        ));
        machine.run(&["accounts", "create", "Acme"]).done();
        let key = machine.make_key(&["production"]);
        let mut child = machine.gateway(&["serve"]).stdout(Stdio::null()).spawn().unwrap();
        let [listener, admin] = addresses(&mut child);
        eventually("the node to be ready", || page(&admin, "/readyz").starts_with("HTTP/1.1 200 ").then_some(()));
        let mut client = TcpStream::connect(listener).unwrap();
        write!(client, "GET / HTTP/1.1\r\nHost: api.martis.id\r\nAuthorization: Bearer {}\r\n\r\n", text(&key, "secret")).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        upstream.set_nonblocking(true).unwrap();
        let (upstream, _) = eventually("a connection to the upstream", || upstream.accept().ok());
        // Its head has come: the request is in flight.
        eventually("the request at the upstream", || upstream.peek(&mut [0]).is_ok_and(|read| read > 0).then_some(()));
        Self { child, admin, client, _upstream: upstream, _machine: machine }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Until `/readyz` says that it drains.
    #[track_caller]
    fn is_seen_draining(&self) {
        let readyz = eventually("the node to be unready", || {
            let readyz = page(&self.admin, "/readyz");
            readyz.starts_with("HTTP/1.1 503 ").then_some(readyz)
        });
        assert!(readyz.contains("\"ready\":false") && readyz.contains("the node stops"), "{readyz}");
    }
}

impl Drop for BusyNode {
    fn drop(&mut self) {
        // Ended already, if it was asked to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_draining_node_is_not_ready_and_alive() {
    let node = BusyNode::start();
    node.signal("TERM");
    node.is_seen_draining();
    assert!(page(&node.admin, "/healthz").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_second_signal_stops_a_node_at_once() {
    let mut node = BusyNode::start();
    node.signal("TERM");
    node.is_seen_draining();
    // Neither a reload nor the open request is in the way.
    node.signal("HUP");
    assert!(node.child.try_wait().unwrap().is_none(), "SIGHUP stops nothing");
    node.signal("INT");
    let ended = eventually("the end of the node", || node.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    assert!(!matches!(node.client.read(&mut [0]), Ok(1..)), "a request that was cut off has no reply");
}

/// The addresses of the listener and of the admin listener, which a node tells when it has them. What it tells later is read,
/// too, so that it can go on telling.
fn addresses(child: &mut Child) -> [String; 2] {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut after = |words: &str| {
        let line = lines.by_ref().map_while(Result::ok).find(|line| line.contains(words)).unwrap();
        let rest = line.split_once(words).unwrap().1;
        rest.split(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ':')).next().unwrap().to_owned()
    };
    let addresses = [after("served at http://"), after("admin listener is at http://")];
    std::thread::spawn(move || lines.for_each(drop));
    addresses
}

/// A page of the admin listener, head and all; empty if it is not there.
fn page(admin: &str, path: &str) -> String {
    let mut reply = String::new();
    let Ok(mut connection) = TcpStream::connect(admin) else { return reply };
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let _ = connection.read_to_string(&mut reply);
    reply
}

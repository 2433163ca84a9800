//! What the documents tell people to do works: the first set-up of the README, and the files below `deploy`.

use std::fs;
use std::path::Path;

use martis_gateway::config::{self, Config, StoreUrl};

use super::machine::{Machine, ran};

/// A pair of files that belong together.
fn write_certificate(certificate: &Path, private_key: &Path) {
    let made = rcgen::generate_simple_self_signed(["api.martis.id".to_owned()]).unwrap();
    fs::write(certificate, made.cert.pem()).unwrap();
    fs::write(private_key, made.signing_key.serialize_pem()).unwrap();
}

/// The lines of shell of a section of the README.
fn shell_of(section: &str) -> String {
    let readme = fs::read_to_string("README.md").unwrap();
    let (_, section) = readme.split_once(&format!("\n## {section}\n")).unwrap();
    let (_, shell) = section.split_once("\n```sh\n").unwrap();
    shell.split_once("\n```\n").unwrap().0.to_owned()
}

#[test]
fn the_first_production_set_up_works_line_by_line() {
    let machine = Machine::new();
    write_certificate(&machine.path("cert.pem"), &machine.path("key.pem"));
    let here = machine.path("");
    let here = here.to_str().unwrap().trim_end_matches('/');
    // In a folder of its own, on a port that is free, and as whoever runs the tests.
    let shell = shell_of("A first production set-up").replace("sudo ", "").replace("/var/", &format!("{here}/var/"));
    let shell = shell.replace("/etc/martis-gateway", here).replace("0.0.0.0:443", "127.0.0.1:0");
    let shell = shell.replace("[log]", "[admin]\naddress = \"127.0.0.1:0\"\n[log]");
    let lines: Vec<_> =
        shell.lines().filter(|line| !line.starts_with("cargo build ") && !line.starts_with("martis-gateway serve")).collect();
    assert_eq!(lines.len() + 2, shell.lines().count(), "the lines that cannot be run here");
    let program = format!("\n'{}' ", super::machine::program());
    let script = format!("set -e\n{}", lines.join("\n")).replace("\nmartis-gateway ", &program);
    let done = ran(machine.command("sh", &["-c", &script]).spawn().unwrap()).done();
    done.prints(&["is fine: 1 listener, 1 with TLS; production", "Made the account acme", "203.0.113.0/24"]);
}

#[test]
fn the_configuration_of_the_container_keeps_everything_in_the_volume_and_can_be_reached() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tls")).unwrap();
    write_certificate(&folder.path().join("tls/cert.pem"), &folder.path().join("tls/key.pem"));
    let text = fs::read_to_string("deploy/container/gateway.toml").unwrap();
    let config = config::parse(&text, folder.path(), "gateway.toml", &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    let Config { store, snapshot, listeners, log, .. } = &config;
    assert_eq!((store, snapshot.path.as_path()), (&StoreUrl::Sqlite("/data/martis.db".into()), Path::new("/data/keys.snapshot")));
    assert!(matches!(log.access, config::AccessLog::Stdout));
    let [listener] = listeners.as_slice() else { panic!("{listeners:?}") };
    assert!(listener.address.ip().is_unspecified() && listener.tls.is_some());
    assert_eq!(config.warnings, [] as [String; 0]);

    // The port that is published is the one that is listened on, and the image has the file.
    let readme = fs::read_to_string("deploy/README.md").unwrap();
    assert!(readme.contains(&format!("-p 443:{} ", listener.address.port())));
    let image = fs::read_to_string("deploy/container/Containerfile").unwrap();
    assert!(image.contains(" deploy/container/gateway.toml /etc/martis-gateway/gateway.toml\n"));
    assert!(image.contains("VOLUME /data\n") && image.contains("MARTIS_CONFIG=/etc/martis-gateway/gateway.toml\n"));
}

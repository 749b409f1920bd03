//! Applications over the network: servers and their clients over the loopback interface, the same under crun and here, and
//! with one side here and the other under crun at the far end of a veth pair. What differs and is known is in
//! `../expect/network.toml`.

use chitin_tests::{apps, skip};

fn everywhere(script: &str) {
    apps::compare_networked("network", script, "network.toml");
}
fn alone(script: &str) {
    apps::compare("network", script, "network.toml");
}

#[test]
fn redis() {
    everywhere("net_redis.sh");
}
#[test]
fn nginx_and_wrk() {
    everywhere("net_nginx.sh");
}
#[test]
fn postgres_and_pgbench() {
    everywhere("net_postgres.sh");
}
#[test]
fn ssh_and_rsync() {
    everywhere("net_ssh.sh");
}
#[test]
fn node_asyncio_and_go() {
    everywhere("net_http.sh");
}
#[test]
fn names() {
    everywhere("net_dns.sh");
}
#[test]
fn datagrams_at_a_rate() {
    everywhere("net_udp.sh");
}
#[test]
fn tools() {
    everywhere("net_tools.sh");
}
#[test]
fn a_namespace_of_ones_own() {
    alone("net_config.sh");
}
#[test]
fn java() {
    if apps::brief() {
        return skip("network.java", "CHITIN_TEST_ALL=1 runs Java on every platform");
    }
    apps::compare_networked("java", "net_java.sh", "network.toml");
}
#[test]
fn python_servers() {
    alone("net_python.py");
}
/// What of Python's own tests passes here as it does under crun.
fn python_suite(name: &str) {
    if apps::brief() {
        return skip("network.python", "CHITIN_TEST_ALL=1 runs Python's own tests on every platform");
    }
    apps::compare_with("network", "net_pysuite.sh", &[name], "network.toml");
}
#[test]
fn python_test_socket() {
    python_suite("test_socket");
}
#[test]
fn python_test_asyncio() {
    if apps::brief() {
        return skip("network.python", "CHITIN_TEST_ALL=1 runs Python's own tests on every platform");
    }
    // Under crun 1.8 it was still busy after five minutes.
    apps::succeeds("network", "net_pysuite.sh", &["test_asyncio"]);
}
#[test]
fn python_test_ssl_httplib_and_smtplib() {
    ["test_ssl", "test_httplib", "test_smtplib"].into_iter().for_each(python_suite);
}

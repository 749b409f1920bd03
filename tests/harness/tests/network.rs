//! Networks within one sandbox: servers and their clients over the loopback interface, the same under crun and here.
//! What differs and is known is in `../expect/network.toml`.

use chitin_tests::apps;

fn compare(script: &str) {
    apps::compare(script, "network.toml");
}

#[test]
fn redis() {
    compare("net_redis.sh");
}
#[test]
fn nginx_and_wrk() {
    compare("net_nginx.sh");
}
#[test]
fn tools() {
    compare("net_tools.sh");
}
#[test]
fn python_servers() {
    compare("net_python.py");
}
#[test]
fn python_test_socket() {
    compare("net_pysuite.sh");
}

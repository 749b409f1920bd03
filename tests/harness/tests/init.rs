//! A container's first process: init in its PID namespace, which signals reach only if it asks for them.

use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::paths;

#[test]
fn init_gets_the_signals_it_blocks_and_no_others() {
    let b = Bundle::new("init", &paths::rootfs("busybox"), &["/guest/signals", "--child", "init"]).bind(
        &paths::guests(),
        "/guest",
        &["ro"],
    );
    let got = Engine::under_test().run(&b, b"", Duration::from_secs(30));
    assert_eq!(got.code, Some(7), "{}", got.brief());
}

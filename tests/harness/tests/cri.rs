//! Pods through containerd's CRI with a runtime handler named chitin: what a kubelet asks for.
//! Pods use the node's network here (no CNI plugin is installed), which is the private world's own network namespace.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use chitin_tests::engine::unique_id;
use chitin_tests::engines::containerd::BUSYBOX;
use chitin_tests::engines::cri::Cri;
use chitin_tests::leftovers::{cgroups, settle};
use chitin_tests::{paths, skip};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn service(test: &str) -> Option<&'static Cri> {
    static ONE: OnceLock<Result<Cri, String>> = OnceLock::new();
    ONE.get_or_init(|| Cri::start("cri"))
        .as_ref()
        .map_err(|why| skip(test, &format!("no CRI service here: {why}")))
        .ok()
}

/// A pod that is stopped and removed whatever happens.
struct Pod<'a> {
    cri: &'a Cri,
    id: String,
    config: Value,
    logs: PathBuf,
}

impl<'a> Pod<'a> {
    fn run(cri: &'a Cri, linux: &Value) -> Result<Pod<'a>, String> {
        let (name, logs) = (unique_id(), paths::scratch("podlogs"));
        let mut config = json!({
            "metadata": { "name": name, "uid": format!("{name}-uid"), "namespace": "tests", "attempt": 0 },
            "log_directory": logs,
            "linux": {
                "cgroup_parent": format!("/{}/{name}", cri.containerd.world.cookie),
                "security_context": { "namespace_options": { "network": "NODE", "pid": "CONTAINER", "ipc": "POD" } },
            },
        });
        for (k, v) in linux.as_object().into_iter().flatten() {
            config["linux"][k] = v.clone();
        }
        let answer = cri.call("RunPodSandbox", &json!({ "config": config, "runtime_handler": "chitin" }))?;
        let id = answer["pod_sandbox_id"].as_str().ok_or(format!("no id in {answer}"))?.to_owned();
        Ok(Pod { cri, id, config, logs })
    }

    fn call(&self, method: &str, request: &Value) -> Value {
        self.cri.call(method, request).unwrap_or_else(|e| panic!("{e}"))
    }

    fn state(&self) -> String {
        let s = self.call("PodSandboxStatus", &json!({ "pod_sandbox_id": self.id }));
        s["status"]["state"].as_str().unwrap_or("none").to_owned()
    }

    fn create(&self, name: &str, attempt: u32, script: &str, more: &Value) -> Result<String, String> {
        let mut config = json!({
            "metadata": { "name": name, "attempt": attempt },
            "image": { "image": BUSYBOX },
            "command": ["/bin/sh", "-c", script],
            "log_path": format!("{name}.{attempt}.log"),
            "linux": { "security_context": { "namespace_options": { "network": "NODE", "pid": "CONTAINER", "ipc": "POD" } } },
        });
        for (k, v) in more.as_object().into_iter().flatten() {
            if k == "linux" {
                for (k, v) in v.as_object().into_iter().flatten() {
                    config["linux"][k] = v.clone();
                }
            } else {
                config[k] = v.clone();
            }
        }
        let request = json!({ "pod_sandbox_id": self.id, "config": config, "sandbox_config": self.config });
        let answer = self.cri.call("CreateContainer", &request)?;
        answer["container_id"].as_str().map(str::to_owned).ok_or(format!("no id in {answer}"))
    }

    /// Created and started.
    fn up(&self, name: &str, attempt: u32, script: &str, more: &Value) -> String {
        let id = self.create(name, attempt, script, more).unwrap_or_else(|e| panic!("{e}"));
        self.call("StartContainer", &json!({ "container_id": id }));
        id
    }

    fn exec(&self, id: &str, script: &str) -> (i64, String) {
        let request = json!({ "container_id": id, "cmd": ["/bin/sh", "-c", script], "timeout": 30 });
        let a = self.call("ExecSync", &request);
        let out = a["stdout"].as_str().unwrap_or_default();
        (a["exit_code"].as_i64().unwrap_or(-1), decode(out))
    }

    /// State and exit code.
    fn status(&self, id: &str) -> (String, i64) {
        let a = self.call("ContainerStatus", &json!({ "container_id": id }));
        let s = &a["status"];
        (s["state"].as_str().unwrap_or("none").to_owned(), s["exit_code"].as_i64().unwrap_or(-1))
    }

    fn until(&self, id: &str, want: &str) -> i64 {
        let mut code = -1;
        settle(LIMIT, || match self.status(id) {
            (s, c) if s == want => {
                code = c;
                Ok(())
            }
            other => Err(format!("{id} is {other:?}, want {want}")),
        })
        .unwrap();
        code
    }

    /// What a container wrote, without the CRI's stamps.
    fn log(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.logs.join(file)).unwrap_or_default();
        text.lines().map(|l| l.splitn(4, ' ').skip(1).collect::<Vec<_>>().join(" ")).collect()
    }

    fn stop(&self) {
        self.call("StopPodSandbox", &json!({ "pod_sandbox_id": self.id }));
    }

    fn remove(&self) {
        self.call("RemovePodSandbox", &json!({ "pod_sandbox_id": self.id }));
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let id = json!({ "pod_sandbox_id": self.id });
        let _ = self.cri.call("StopPodSandbox", &id);
        let _ = self.cri.call("RemovePodSandbox", &id);
    }
}

/// Base64, as JSON carries bytes.
fn decode(text: &str) -> String {
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut out, mut acc, mut bits) = (Vec::new(), 0u32, 0);
    for v in text.bytes().filter_map(value) {
        acc = acc << 6 | u32::from(v);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((acc >> bits & 0xff) as u8);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn mounted(dir: &std::path::Path) -> Value {
    json!([{ "container_path": "/shared", "host_path": dir }])
}

#[test]
fn a_pod_comes_and_goes() {
    let Some(cri) = service("cri pod") else { return };
    let pod = Pod::run(cri, &json!({})).unwrap();
    assert_eq!(pod.state(), "SANDBOX_READY");
    pod.stop();
    assert_eq!(pod.state(), "SANDBOX_NOTREADY");
    pod.stop(); // again: the CRI says it must not fail
    pod.remove();
    pod.remove();
    assert!(cri.call("PodSandboxStatus", &json!({ "pod_sandbox_id": pod.id })).is_err(), "removed");
    settle(LIMIT, || match cgroups(&pod.id) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("cgroups left: {left:?}")),
    })
    .unwrap();
}

#[test]
fn two_containers_share_an_empty_dir() {
    let Some(cri) = service("cri two containers") else { return };
    let shared = paths::scratch("emptydir");
    let pod = Pod::run(cri, &json!({})).unwrap();
    let more = json!({ "mounts": mounted(&shared) });
    let writer = pod.up("writer", 0, "echo from the writer >/shared/note; while :; do sleep 1; done", &more);
    let reader = pod.up(
        "reader",
        0,
        "until [ -s /shared/note ]; do sleep 0.05; done; cat /shared/note; echo oops >&2; while :; do sleep 1; done",
        &more,
    );
    settle(LIMIT, || match pod.log("reader.0.log") {
        l if l == ["stdout F from the writer", "stderr F oops"] => Ok(()),
        l if l == ["stderr F oops", "stdout F from the writer"] => Ok(()),
        l => Err(format!("log {l:?}")),
    })
    .unwrap();
    // Each has its own root, the directory is one.
    assert_eq!(
        pod.exec(&writer, "echo mine >/tmp/own; echo more >/shared/more; cat /shared/note"),
        (0, "from the writer\n".into())
    );
    assert_eq!(pod.exec(&reader, "cat /shared/more; [ -e /tmp/own ]; echo $?"), (0, "more\n1\n".into()));
    assert_eq!(
        std::fs::read_to_string(shared.join("more")).unwrap_or_default(),
        "more\n",
        "the host sees it too"
    );
    // Each has its own PID namespace (as the kubelet asks by default).
    assert_eq!(pod.exec(&reader, "cat /proc/1/comm").1, "sh\n");
    assert_eq!(pod.exec(&writer, "exit 9").0, 9);
    // One ends: the other and the pod go on, and its exit code is its own.
    pod.call("StopContainer", &json!({ "container_id": writer, "timeout": 0 }));
    assert_eq!(pod.until(&writer, "CONTAINER_EXITED"), 137);
    assert_eq!(pod.status(&reader).0, "CONTAINER_RUNNING");
    assert_eq!(pod.exec(&reader, "echo alive"), (0, "alive\n".into()));
    pod.stop();
    assert_eq!(pod.until(&reader, "CONTAINER_EXITED"), 137);
    pod.remove();
    for id in [&pod.id, &writer, &reader] {
        settle(LIMIT, || match cgroups(id) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("cgroups left: {left:?}")),
        })
        .unwrap();
    }
}

#[test]
fn exit_codes_and_restarts() {
    let Some(cri) = service("cri restarts") else { return };
    let shared = paths::scratch("restarts");
    let pod = Pod::run(cri, &json!({})).unwrap();
    let more = json!({ "mounts": mounted(&shared) });
    // A kubelet restarts by making the next attempt in the same pod.
    for attempt in 0..3u32 {
        let script = format!(
            "echo {attempt} >>/shared/runs; [ -e /only-mine ] && exit 99; touch /only-mine; exit {}",
            attempt + 3
        );
        let id = pod.up("job", attempt, &script, &more);
        assert_eq!(pod.until(&id, "CONTAINER_EXITED"), i64::from(attempt) + 3);
        pod.call("RemoveContainer", &json!({ "container_id": id }));
        pod.call("RemoveContainer", &json!({ "container_id": id })); // idempotent
    }
    assert_eq!(std::fs::read_to_string(shared.join("runs")).unwrap_or_default(), "0\n1\n2\n");
    let id = pod.up("killed", 0, "kill -KILL $$; sleep 0.1; sh -c 'kill -TERM $$'; exit $?", &json!({}));
    // PID 1 does not die by its own SIGKILL.
    assert_eq!(pod.until(&id, "CONTAINER_EXITED"), 143);
    assert_eq!(pod.state(), "SANDBOX_READY", "containers end, the pod stays");
}

#[test]
fn a_graceful_stop() {
    let Some(cri) = service("cri stop") else { return };
    let pod = Pod::run(cri, &json!({})).unwrap();
    let id = pod.up(
        "polite",
        0,
        "trap 'echo bye; exit 6' TERM; echo ready; while :; do sleep 0.05; done",
        &json!({}),
    );
    settle(LIMIT, || if pod.log("polite.0.log").len() == 1 { Ok(()) } else { Err("not ready".into()) })
        .unwrap();
    pod.call("StopContainer", &json!({ "container_id": id, "timeout": 30 }));
    assert_eq!(pod.until(&id, "CONTAINER_EXITED"), 6);
    assert_eq!(pod.log("polite.0.log"), ["stdout F ready", "stdout F bye"]);
}

#[test]
fn a_container_that_cannot_start_says_why() {
    let Some(cri) = service("cri errors") else { return };
    let pod = Pod::run(cri, &json!({})).unwrap();
    let id = pod.create("broken", 0, "true", &json!({ "command": ["/no/such/program"] })).unwrap();
    let why =
        cri.call("StartContainer", &json!({ "container_id": id })).expect_err("there is no such program");
    assert!(why.contains("/no/such/program"), "{why}");
    assert_eq!(pod.state(), "SANDBOX_READY");
    // And the next one in the same pod is well.
    let id = pod.up("sound", 0, "exit 0", &json!({}));
    assert_eq!(pod.until(&id, "CONTAINER_EXITED"), 0);
}

#[test]
fn users_environment_and_limits() {
    let Some(cri) = service("cri container config") else { return };
    let pod = Pod::run(cri, &json!({})).unwrap();
    let more = json!({
        "working_dir": "/tmp",
        "envs": [{ "key": "GREETING", "value": "hello there" }],
        "linux": {
            "resources": { "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "memory_limit_in_bytes": 134_217_728 },
            "security_context": {
                "namespace_options": { "network": "NODE", "pid": "CONTAINER", "ipc": "POD" },
                "run_as_user": { "value": 1000 },
                "readonly_rootfs": true,
            },
        },
    });
    let id = pod.up("configured", 0, "while :; do sleep 1; done", &more);
    let (code, out) = pod.exec(&id, "id -u; pwd; echo $GREETING; touch /x 2>/dev/null || echo refused");
    assert_eq!((code, out.as_str()), (0, "1000\n/tmp\nhello there\nrefused\n"));
    if cri.containerd.world.limits_memory() {
        let limit = cgroups(&id).iter().find_map(|g| {
            ["memory.limit_in_bytes", "memory.max"]
                .iter()
                .find_map(|f| std::fs::read_to_string(g.join(f)).ok())
        });
        assert_eq!(limit.as_deref().map(str::trim), Some("134217728"), "on the host");
        let stats = pod.call("ContainerStats", &json!({ "container_id": id }));
        let used = &stats["stats"]["memory"]["working_set_bytes"]["value"];
        assert!(used.as_str().and_then(|v| v.parse::<u64>().ok()) > Some(0), "{stats}");
        let update = json!({ "container_id": id, "linux": { "memory_limit_in_bytes": 268_435_456 } });
        pod.call("UpdateContainerResources", &update);
        let limit = cgroups(&id).iter().find_map(|g| {
            ["memory.limit_in_bytes", "memory.max"]
                .iter()
                .find_map(|f| std::fs::read_to_string(g.join(f)).ok())
        });
        assert_eq!(limit.as_deref().map(str::trim), Some("268435456"), "after the update");
    } else {
        skip("cri limits", "no memory controller in the cgroups seen here");
    }
}

#[test]
fn a_shared_pid_namespace() {
    let Some(cri) = service("cri shared pid namespace") else { return };
    let options = json!({ "namespace_options": { "network": "NODE", "pid": "POD", "ipc": "POD" } });
    let pod = Pod::run(cri, &json!({ "security_context": options })).unwrap();
    let more = json!({ "linux": { "security_context": options } });
    let one = pod.up("one", 0, "exec sleep 4711", &more);
    let two = pod.up("two", 0, "while :; do sleep 1; done", &more);
    let (_, seen) = pod.exec(&two, "cat /proc/1/comm; cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    assert!(seen.starts_with("pause\n") && seen.contains("sleep 4711"), "{seen}");
    // One may signal the other; its end is its own.
    let (code, out) = pod.exec(&two, "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = sleep ] && grep -q 4711 $p/cmdline && kill -TERM ${p#/proc/}; done; true");
    assert_eq!(code, 0, "{out}");
    assert_eq!(pod.until(&one, "CONTAINER_EXITED"), 143);
    assert_eq!(pod.status(&two).0, "CONTAINER_RUNNING");
}

#[test]
fn the_pod_s_end_ends_its_containers() {
    let Some(cri) = service("cri pod end") else { return };
    let pod = Pod::run(cri, &json!({})).unwrap();
    let ids: Vec<String> =
        (0..4).map(|n| pod.up(&format!("c{n}"), 0, "sleep 1000 & sleep 1000", &json!({}))).collect();
    pod.stop();
    for id in &ids {
        assert_eq!(pod.until(id, "CONTAINER_EXITED"), 137);
    }
    pod.remove();
    for id in ids.iter().chain([&pod.id]) {
        settle(LIMIT, || match cgroups(id) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("cgroups left: {left:?}")),
        })
        .unwrap();
    }
}

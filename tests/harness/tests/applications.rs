//! Whole Debian programs: the same bundle gives the same output and exit code under crun and under chitin.

use chitin_tests::apps;

fn compare(script: &str) {
    apps::compare("bookworm", script, "applications.toml");
}

#[test]
fn find_whole_tree() {
    compare("find_all.sh");
}
#[test]
fn tar_and_xz() {
    compare("tar_xz.sh");
}
#[test]
fn git_200_commits() {
    compare("git.sh");
}
#[test]
fn make_50_files() {
    compare("make.sh");
}
#[test]
fn perl_200_workers() {
    compare("perl.pl");
}
#[test]
fn python_200_workers() {
    compare("python.py");
}
#[test]
fn sqlite_wal() {
    compare("sqlite.sh");
}
#[test]
fn bash_job_control() {
    compare("job_control.py");
}
#[test]
fn ten_thousand_execs() {
    compare("forks.sh");
}

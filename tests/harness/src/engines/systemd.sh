# A systemd of a test's own as PID 1 of private namespaces, over a cgroup of its own in v2's hierarchy, with no units but its own.
# sh systemd.sh CGROUP: it lasts until stdin closes. Prints "pid N", the host's number of systemd.
if [ "$1" != inside ]; then
    mkdir -p "$1" && echo 0 >"$1/cgroup.procs" || exit 1
    unshare --cgroup --mount --pid --net --uts --ipc --fork --kill-child --propagation private sh "$0" inside </dev/null >&2 &
    outer=$!
    for try in 1 2 3 4 5 6 7 8 9 10; do
        inner=$(cat /proc/$outer/task/$outer/children)
        [ -n "$inner" ] && break
        sleep 0.1
    done
    echo "pid ${inner% }"
    cat >/dev/null
    kill -9 $outer
    wait $outer
    # Out of there, so that it can be removed.
    top=$(dirname "$1")
    echo 0 >"$top/cgroup.procs"
    for try in 1 2 3 4 5; do
        find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
        [ -d "$1" ] || exit 0
        sleep 0.2
    done
    exit 1
fi
set -e
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t proc proc /proc
# The host's settings stay what they are.
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
# A sentry may mount procfs only where an unmasked one is in sight.
mount -t proc proc /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/systemd/system /run/lock
printf '[Unit]\nDefaultDependencies=no\n' >/run/systemd/system/test.target
unset NOTIFY_SOCKET
container=test exec /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no

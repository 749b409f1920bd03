# A private world for one engine: own mount, PID and network namespaces, an own /run, and cgroups as asked for.
# sh world.sh COOKIE own|v2: it lasts until stdin closes; then every process in it is killed with its init, the mounts go
# with the namespace, and cgroups that carry the cookie are removed.
if [ "$1" != inside ]; then
    cookie=$1
    unshare --mount --pid --net --fork --kill-child --propagation private sh "$0" inside "$cookie" "$2"
    # The hierarchies as this machine has them, and v2 through a mount of our own (it may be mounted nowhere else).
    exec unshare --mount --propagation private sh -c '
        mount -t cgroup2 none /mnt 2>/dev/null
        for try in 1 2 3 4 5; do
            left=$(find /sys/fs/cgroup /mnt -depth -type d -path "*$1*" 2>/dev/null)
            [ -z "$left" ] && exit 0
            for d in $left; do rmdir "$d" 2>/dev/null; done
            sleep 0.2
        done' sh "$cookie"
fi
set -e
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
ip link set lo up
if [ "$3" = v2 ]; then
    umount -R /sys/fs/cgroup 2>/dev/null || true
    mount -t cgroup2 none /sys/fs/cgroup
fi
echo ready
# `wait` also reaps what is left to this init.
exec 3<&0
cat <&3 >/dev/null &
wait $!

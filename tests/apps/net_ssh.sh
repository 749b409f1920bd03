# An SSH server and its clients: commands, a terminal, much data both ways, a forwarded port, sftp; rsync over it.
. /apps/net_lib.sh
serve() {
    rm -f /shared/id* /shared/host*
    ssh-keygen -q -t ed25519 -N '' -f /shared/host
    ssh-keygen -q -t ed25519 -N '' -f /shared/id.new
    mkdir -p /run/sshd /root/.ssh && chmod 700 /root /root/.ssh
    cp /shared/id.new.pub /root/.ssh/authorized_keys
    mv /shared/id.new /shared/id
    cp /shared/host /etc/ssh/host && chmod 600 /etc/ssh/host
    /usr/sbin/sshd -f /dev/null -p 2222 -h /etc/ssh/host -o UsePAM=no -o PermitRootLogin=yes -o StrictModes=no -o Subsystem='sftp internal-sftp'
    echo "through the tunnel" >/tmp/page
    socat -U TCP-LISTEN:8000,bind=127.0.0.1,reuseaddr,fork OPEN:/tmp/page,rdonly &
}
use() {
    up 2222
    cp /shared/id /tmp/id && chmod 600 /tmp/id
    options="-F none -i /tmp/id -o StrictHostKeyChecking=no -o UserKnownHostsFile=/tmp/known -o LogLevel=ERROR"
    # shellcheck disable=SC2086
    remote() { ssh $options -p 2222 "$@"; }
    remote "$at" 'echo "hello from $(id -un)"; exit 7'
    echo "code $?"
    head -c $(part 20000000) /dev/zero | tr '\0' e >big
    remote "$at" md5sum <big
    remote -C "$at" "head -c $(part 20000000) /dev/zero" | md5sum
    # The line's end is the terminal's.
    remote -tt "$at" 'tty >/dev/null && echo "a terminal"; stty size >/dev/null && echo sized' </dev/null | tr -d '\r'
    # Several at a time.
    for i in $(seq 6); do remote "$at" "seq $i 20000 | wc -l" & done >counts
    wait $(jobs -p | tail -6)
    sort -n counts | tr '\n' ' '; echo
    remote -f -N -L 127.0.0.1:8001:127.0.0.1:8000 -o ExitOnForwardFailure=yes "$at" sleep 20
    socat -u TCP:127.0.0.1:8001 -
    printf 'put big /tmp/there\nget /tmp/there back\n' | sftp $options -q -P 2222 -b - "$(case $at in *:*) echo "[$at]" ;; *) echo "$at" ;; esac)" >/dev/null
    cmp big back && echo "sftp: the same"
    mkdir -p tree/a/b && for i in $(seq $((10 + $(part 190)))); do echo "$i" >"tree/a/f$i"; done
    cp big tree/a/b/
    sync() { rsync -a -e "ssh $options -p 2222" --stats "$@" | grep -E 'regular files transferred|Total transferred'; }
    sync tree "$host:/tmp/mirror/"
    echo more >>tree/a/f7
    printf x >>tree/a/b/big
    sync --no-whole-file tree "$host:/tmp/mirror/" | head -1
    sync "$host:/tmp/mirror/tree/" copy
    diff -r tree copy && echo "rsync: the same"
}
play

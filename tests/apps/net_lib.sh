# What the scripts net_*.sh with two sides have in common. Without arguments a script plays both sides, over loopback; `serve` and
# `use ADDRESS` are one side each, with a network between. What `use` prints must not depend on where it runs. /shared is both
# sides' (keys, certificates).
set -u
role=${1:-both}
# Where an exit is dear, an nth of the work is asked for.
PART=${PART:-1}
part() { echo $((($1 + PART - 1) / PART)); }
at=${2:-127.0.0.1}
cd /tmp && chmod 1777 /tmp
# An address as it stands in a URL.
case $at in *:*) host="[$at]" ;; *) host=$at ;; esac
# Until something listens at these ports.
up() {
    for port in "$@"; do
        for _ in $(seq 300); do
            (exec 3<>"/dev/tcp/$at/$port") 2>/dev/null && continue 2
            sleep 0.1
        done
        echo "nothing listens at port $port"
        exit 1
    done
}
# A key and a certificate of a server named `server`, made once.
certificate() {
    openssl req -x509 -newkey rsa:2048 -nodes -keyout /shared/key.pem -out /shared/cert.new -days 2 -subj /CN=server \
        -addext subjectAltName=DNS:server 2>/dev/null
    mv /shared/cert.new /shared/cert.pem
}
# Lines of a load generator that speak of errors, or that there are none.
errors() { grep -E "${1:-Socket errors|Non-2xx}" || echo "no errors"; }
# What follows is said over loopback only.
alone() { echo "== alone"; }
play() {
    case $role in
    both) serve && use ;;
    serve) serve && sleep 1000 ;;
    use) use ;;
    esac
}

# PostgreSQL under pgbench: simple and prepared statements, a connection per transaction, bulk data, a notification.
. /apps/net_lib.sh
bin=$(echo /usr/lib/postgresql/*/bin)
as() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
serve() {
    install -d -o postgres -g postgres /tmp/pg
    as "$bin/initdb" -D /tmp/pg -A trust --no-sync --no-instructions >/dev/null || exit 1
    echo "host all all all trust" >>/tmp/pg/pg_hba.conf
    as "$bin/postgres" -D /tmp/pg -c listen_addresses='*' -c fsync=off -c unix_socket_directories=/tmp >/tmp/pg.log 2>&1 &
}
use() {
    up 5432
    export PGHOST=$at PGUSER=postgres
    for _ in $(seq 100); do "$bin/psql" -Atc 'select 1' >/dev/null 2>&1 && break; sleep 0.1; done
    ask() { "$bin/psql" -At "$@"; }
    bench() { "$bin/pgbench" -n "$@" postgres 2>&1 | grep -E 'processed|failed|aborted|error' | sed 's/ (.*//'; }
    "$bin/pgbench" -i -q -s 1 postgres >/dev/null 2>&1 || echo "no initialisation"
    bench -c 8 -j 2 -t $(part 100)
    bench -S -C -c 4 -j 2 -t $(part 20)
    bench -M prepared -S -c 8 -j 2 -t $(part 400)
    ask -c "select count(*), sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts"
    ask -c "copy (select generate_series(1, $(part 200000))) to stdout" | md5sum
    seq $(part 100000) | ask -c "create table t (n int)" -c "copy t from stdin" -c "select sum(n) from t"
    ask -c "listen news" -c "notify news, 'extra'" | sed 's/ received.*//'
}
play

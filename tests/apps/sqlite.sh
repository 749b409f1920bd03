# 100,000 inserts in WAL mode while another process reads.
set -e
cd /tmp
sqlite3 t.db 'PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);'
(
    last=0
    n=0
    while [ ! -e done ]; do
        c=$(sqlite3 -cmd '.timeout 10000' t.db 'SELECT count(*) FROM t')
        [ "$c" -ge "$last" ] || { echo "count went back from $last to $c"; exit 1; }
        last=$c
        n=$((n + 1))
    done
    [ $n -gt 0 ] && echo reader saw growth
) &
reader=$!
{
    echo '.timeout 10000'
    i=0
    while [ $i -lt 100 ]; do
        echo "BEGIN; WITH RECURSIVE c(x) AS (SELECT $((i * 1000 + 1)) UNION ALL SELECT x+1 FROM c WHERE x < $((i * 1000 + 1000))) INSERT INTO t SELECT x, printf('value-%08d', x*7919 % 100003) FROM c; COMMIT;"
        i=$((i + 1))
    done
} | sqlite3 t.db
touch done
wait $reader
sqlite3 t.db 'PRAGMA integrity_check; SELECT count(*), sum(id), min(v), max(v) FROM t;'

# Pack /usr/share, unpack it, compare checksums of every file.
set -e
cd /tmp
tar -C / --sort=name -cf - usr/share | xz -1 -T1 >s.tar.xz
mkdir u
tar -C u -xJf s.tar.xz
sums() { (cd "$1" && find usr/share -type f -print0 | sort -z | xargs -0 sha256sum); }
sums / >a
sums u >b
cmp a b
wc -l <a
sha256sum <a
(cd u && find . -printf '%y %m %p %l\n' | sort | sha256sum)

# A repository of 200 commits, collected and checked.
set -e
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
export GIT_CONFIG_NOSYSTEM=1 HOME=/tmp
cd /tmp
git -c init.defaultBranch=main init r
cd r
git config gc.auto 0
n=$((200 / PART))
i=0
while [ $i -lt $n ]; do
    i=$((i + 1))
    mkdir -p "d$((i % 7))"
    echo "line $i" >>"d$((i % 7))/f$((i % 13))"
    git add -A
    GIT_AUTHOR_DATE="$((1700000000 + i)) +0000" GIT_COMMITTER_DATE="$((1700000000 + i)) +0000" git commit -q -m "commit $i"
done
git rev-parse HEAD
git log --oneline | wc -l
git gc --quiet
git fsck --strict --full
git count-objects -v | grep -v size
git status --short
git log --format='%H %ad' | sha256sum

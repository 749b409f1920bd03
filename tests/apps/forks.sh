# 10,000 fork+exec+wait.
i=0
while [ $i -lt 10000 ]; do
    /bin/true || exit 1
    i=$((i + 1))
done
echo done $i

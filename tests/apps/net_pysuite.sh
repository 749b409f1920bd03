# A suite of Python's own tests: which of them fail. What the host's kernel lacks is skipped alike.
cd /tmp
python3 -m unittest -q "test.$1" >log 2>&1
code=$?
sed -n -E 's/^(ERROR|FAIL): /\1 /p' log | sort
grep -E '^Ran' log | sed 's/ in .*//'
exit $code

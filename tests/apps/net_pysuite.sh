# A suite of Python's own tests: which of them fail. What the host's kernel lacks is skipped alike.
# The log is read as bytes: a print in one thread while another's is being flushed leaves memory never written in
# Python's own buffer (gh-119506, up to 3.12), so that what comes out is not always text.
export LC_ALL=C
cd /tmp
python3 -m unittest -q "test.$1" >log 2>&1
code=$?
sed -n -E 's/^(ERROR|FAIL): /\1 /p' log | sort
grep -aE '^Ran' log | sed 's/ in .*//'
exit $code

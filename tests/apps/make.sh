# A C project of 50 files, built in parallel.
set -e
mkdir /tmp/p && cd /tmp/p
i=0
while [ $i -lt 50 ]; do
    printf '#include <stdio.h>\n#include <string.h>\nint f%d(int x) { char b[64]; snprintf(b, sizeof b, "%%d", x); return (int)strlen(b) + x + %d; }\n' $i $i >f$i.c
    i=$((i + 1))
done
{
    echo '#include <stdio.h>'
    seq 0 49 | sed 's/.*/int f&(int);/'
    echo 'int main(void) { int s = 0;'
    seq 0 49 | sed 's/.*/s += f&(s % 1000);/'
    echo 'printf("%d\n", s); return 0; }'
} >main.c
printf 'OBJS = main.o %s\nprog: $(OBJS)\n\tgcc -o $@ $(OBJS)\n%%.o: %%.c\n\tgcc -O1 -c -o $@ $<\n' "$(seq -s ' ' -f 'f%g.o' 0 49)" >Makefile
make -j4 | sort
./prog
make -q && echo up to date

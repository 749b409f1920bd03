# Every file's type, mode, size and owner.
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /apps \) -prune -o -printf '%M %s %U:%G %p -> %l\n' | sort

# 200 workers over pipes.
use strict;
my (@r, @pid);
for my $i (0 .. 199) {
    pipe(my $r, my $w) or die "pipe: $!";
    my $p = fork();
    die "fork: $!" unless defined $p;
    if (!$p) {
        close $r;
        my $s = 0;
        $s += $_ * $i for 1 .. 500;
        print $w "worker $i sum $s\n";
        close $w;
        exit($i % 7);
    }
    close $w;
    push @r, $r;
    push @pid, $p;
}
for my $i (0 .. 199) {
    my $h = $r[$i];
    print while <$h>;
    waitpid($pid[$i], 0) == $pid[$i] or die "waitpid: $!";
    print "exit ", $? >> 8, "\n";
}

# Draws growth.png in `folder` from the CSV files that run.sh has left there: how the time of an update grows with the
# size of a group, the length of the prompt and the number of ranks. Points: measured; lines: the cost model, which is the
# work at the rate of a curve's first point, over ranks the time of one rank divided by their number.
set datafile separator comma
set datafile columnheaders
set datafile missing NaN # so that lines pass over the rows of other curves
set terminal pngcairo size 1800,650 font 'sans,12'
set output folder.'/growth.png'
set logscale xy
set grid
set key left top
set ylabel 'seconds of an update'
tree = '#2171b5'
repeated = '#d94801'
csv(name) = folder.'/'.name.'.csv'
of(what, x) = stringcolumn('what') eq what ? x : NaN
set multiplot layout 1,3 title 'points: measured; lines: the cost model'

set title 'size of a group (prompt 2048, answer 128; 2 threads)'
set xlabel 'answers to a prompt'
set xtics (1, 2, 4, 8, 16, 32)
set xrange [0.8:40]
plot csv('growth-size') using (of('repeated', column('group_size'))):'best_s' with points pt 5 lc rgb repeated title 'repeated', \
     '' using (of('repeated', column('group_size'))):'predicted_s' with lines lc rgb repeated notitle, \
     '' using (of('tree', column('group_size'))):'best_s' with points pt 7 lc rgb tree title 'tree', \
     '' using (of('tree', column('group_size'))):'predicted_s' with lines lc rgb tree notitle

set title 'length of the prompt (8 answers of 128; 2 threads)'
set xlabel 'tokens of a prompt'
set xtics (256, 512, 1024, 2048, 4096, 8192)
set xrange [200:10000]
plot csv('growth-prompt') using (of('repeated', column('prompt'))):'best_s' with points pt 5 lc rgb repeated title 'repeated', \
     '' using (of('repeated', column('prompt'))):'predicted_s' with lines lc rgb repeated notitle, \
     '' using (of('tree', column('prompt'))):'best_s' with points pt 7 lc rgb tree title 'tree', \
     '' using (of('tree', column('prompt'))):'predicted_s' with lines lc rgb tree notitle

# Ranks: files that are there, of 1 to 8.
ranks_csv(n, groups) = csv(sprintf('ranks-%d-groups-%d', n, groups))
is_there(path) = int(system("test -e '".path."' && echo 1 || echo 0"))
if (is_there(ranks_csv(1, 4)) && is_there(ranks_csv(1, 1))) {
    stats ranks_csv(1, 4) using 'best_s' name 'many' nooutput
    stats ranks_csv(1, 1) using 'best_s' name 'one' nooutput
    set title 'ranks of one thread (prompt 1024, 8 answers of 128)'
    set xlabel 'ranks'
    set xtics (1, 2, 3, 4, 6, 8)
    most = 1
    do for [n = 2:8] { if (is_there(ranks_csv(n, 4))) { most = n } }
    set xrange [0.8:most * 1.25]
    shown(n, groups) = is_there(ranks_csv(n, groups)) ? ranks_csv(n, groups) : '/dev/null'
    plot for [n = 1:most] shown(n, 4) using (n):'best_s' with points pt 7 lc rgb tree title (n == 1 ? '4 groups' : ''), \
         many_max / x with lines lc rgb tree notitle, \
         for [n = 1:most] shown(n, 1) using (n):'best_s' with points pt 9 lc rgb '#238b45' title (n == 1 ? '1 group' : ''), \
         one_max / x with lines lc rgb '#238b45' notitle
}
unset multiplot

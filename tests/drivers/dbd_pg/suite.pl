# Perl's DBD::Pg as an application uses it, with its defaults: prepared at the server from the second run on.

use strict;
use warnings;
use utf8;
no warnings qw(once);

eval { require DBI; require DBD::Pg; 1 } or die "Perl has no DBD::Pg: run `make deps`\n";
DBD::Pg->import(':pg_types', ':async');
binmode STDOUT, ':encoding(UTF-8)';
$| = 1;

my $n_shards = $ENV{SHARDS};

sub connect_to {
    my (%attributes) = @_;
    my $dsn = "dbi:Pg:host=$ENV{PGHOST};port=$ENV{PGPORT};dbname=$ENV{PGDATABASE}";
    return DBI->connect($dsn, $ENV{PGUSER}, $ENV{PGPASSWORD}, {RaiseError => 1, PrintError => 0, PrintWarn => 0, %attributes});
}

sub equal {
    my ($found, $expected) = @_;
    my ($a, $b) = map { defined $_ ? $_ : 'undef' } $found, $expected;
    die "$a instead of $b\n" unless $a eq $b;
}

sub value { my ($db, $sql, @values) = @_; return ($db->selectrow_array($sql, undef, @values))[0]; }

sub fails {
    my ($sqlstate, $work) = @_;
    die "succeeded instead of $sqlstate\n" if eval { $work->(); 1 };
    equal($DBI::state, $sqlstate);
}

sub connects_with_its_defaults {
    my $db = connect_to();
    equal(value($db, 'SELECT current_database()'), 'shop');
    die "version\n" unless $db->{pg_server_version} >= 140000;
    equal($db->ping, 1);
    $db->disconnect;
}

sub schema_is_made {
    my $db = connect_to();
    $db->do("DROP TABLE IF EXISTS items; DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('sad', 'happy')");
    $db->do('CREATE TABLE items (id bigint PRIMARY KEY, n integer, amount numeric, ratio float8, label text, raw bytea, flag boolean,
        day date, at timestamptz, token uuid, attrs jsonb, tags text[], addr inet, feeling mood)');
    $db->disconnect;
}

my %values = (
    n => 2147483647, amount => '12345678901234567890.000100', ratio => '0.1', label => "Zoë, 名前, 🐘, it's \\ \"quoted\" ?",
    flag => 1, day => '1999-12-31', at => '2024-02-29 12:00:00.654321+00', token => '0b5f0d46-6ad4-4f4e-8d5a-0a6a1f2f3a4b',
    attrs => '{"deep": true}', addr => '10.1.2.3', feeling => 'happy',
);

sub types_go_both_ways {
    my $db = connect_to();
    $db->do('SET TIME ZONE UTC');
    my @names = sort keys %values;
    my $raw = join '', map { chr } 0 .. 255;
    my $insert = $db->prepare('INSERT INTO items (id, raw, tags, ' . join(', ', @names) . ') VALUES (?, ?, ?' . ', ?' x @names . ')');
    $insert->bind_param(2, undef, {pg_type => DBD::Pg::PG_BYTEA()});
    my $select = $db->prepare('SELECT raw, tags, ' . join(', ', @names) . ' FROM items WHERE id = ?');
    for my $id (1 .. 8) {
        equal($insert->execute($id, $raw, ['a', 'b,c', undef, ''], @values{@names}), 1);
        $select->execute($id);
        my $row = $select->fetchrow_hashref;
        $select->finish;
        equal($row->{raw}, $raw);
        equal(join('|', map { defined $_ ? $_ : 'NULL' } @{$row->{tags}}), 'a|b,c|NULL|');
        equal($row->{$_}, $values{$_}) for @names;
    }
    $insert->execute(9, undef, undef, map { undef } @names);
    $select->execute(9);
    equal(scalar(grep { defined } $select->fetchrow_array), 0);
    $select->finish;
    $db->disconnect;
}

sub statements_are_prepared {
    my ($db, $other) = (connect_to(), connect_to());
    my $statement = $db->prepare('SELECT id FROM items WHERE id = ?');
    for my $n (0 .. 19) {
        # The other client holds the server connection that the statement was prepared on.
        $other->begin_work;
        value($other, 'SELECT ?::int', $n);
        $statement->execute($n % 8 + 1);
        equal(($statement->fetchrow_array)[0], $n % 8 + 1);
        $statement->finish;
        $other->commit;
    }
    my $now = $db->prepare('SELECT ?::int + 1', {pg_prepare_now => 1});
    $now->execute(41);
    equal(($now->fetchrow_array)[0], 42);
    my $simple = $db->prepare('SELECT ?::text', {pg_server_prepare => 0});
    $simple->execute("it's");
    equal(($simple->fetchrow_array)[0], "it's");
    $_->finish for $now, $simple;
    $_->disconnect for $db, $other;
}

sub transactions_and_savepoints {
    my $db = connect_to();
    $db->begin_work;
    $db->do("UPDATE items SET label = 'outer' WHERE id = 1");
    $db->pg_savepoint('inside');
    $db->do("UPDATE items SET label = 'inner' WHERE id = 1");
    fails('23505', sub { $db->do('INSERT INTO items (id) VALUES (1)') });
    fails('25P02', sub { $db->do('SELECT 1') });
    $db->pg_rollback_to('inside');
    equal($db->do('UPDATE items SET n = 5 WHERE id = 2'), 1);
    $db->pg_release('inside');
    $db->commit;
    equal(value($db, 'SELECT label FROM items WHERE id = 1'), 'outer');
    $db->begin_work;
    $db->do("UPDATE items SET label = 'lost' WHERE id = 1");
    $db->rollback;
    equal(value($db, 'SELECT label FROM items WHERE id = 1'), 'outer');
    $db->disconnect;
    # Without AutoCommit the driver begins transactions by itself.
    $db = connect_to(AutoCommit => 0);
    $db->do('UPDATE items SET n = 6 WHERE id = 2');
    $db->rollback;
    equal(value($db, 'SELECT n FROM items WHERE id = 2'), 5);
    $db->rollback;
    $db->disconnect;
}

sub errors_have_their_sqlstate {
    my $db = connect_to();
    my %cases = (
        'SELECT 1/0' => '22012', 'SELECT * FROM nothing_here' => '42P01', 'SELEC 1' => '42601',
        'INSERT INTO items (id) VALUES (1)' => '23505',
    );
    for my $sql (sort keys %cases) {
        fails($cases{$sql}, sub { $db->do($sql) });
        fails($cases{$sql}, sub { $db->do("$sql /* ? */", undef) });
        equal(value($db, 'SELECT 1'), 1);
    }
    fails('22P02', sub { value($db, 'SELECT ?::int', 'no number') });
    equal(value($db, 'SELECT 1'), 1);
    $db->disconnect;
}

sub copies {
    my $db = connect_to();
    $db->do('COPY items (id, label) FROM STDIN');
    $db->pg_putcopydata("$_\tlabel $_\n") for 1000 .. 1999;
    $db->pg_putcopyend;
    equal(value($db, 'SELECT count(*) FROM items WHERE id >= 1000'), 1000);
    $db->do('COPY items (id) FROM STDIN');
    $db->pg_putcopydata("1\n");
    fails('23505', sub { $db->pg_putcopyend });
    equal(value($db, 'SELECT 1'), 1);
    if ($n_shards == 1) {
        $db->do('COPY (SELECT id, label FROM items WHERE id >= 1000 ORDER BY id) TO STDOUT');
        my ($line, @lines);
        push @lines, $line while $db->pg_getcopydata($line) >= 0;
        equal(scalar(@lines), 1000);
        equal($lines[999], "1999\tlabel 1999\n");
    }
    $db->disconnect;
}

sub metadata {
    my $db = connect_to();
    my $columns = $db->column_info(undef, 'public', 'items', '%')->fetchall_arrayref({});
    equal(scalar(grep { $_->{COLUMN_NAME} eq 'feeling' && $_->{pg_type} eq 'mood' } @$columns), 1);
    equal(join(',', $db->primary_key(undef, 'public', 'items')), 'id');
    $db->disconnect;
}

sub a_statement_is_cancelled {
    my ($db, $other) = (connect_to(), connect_to());
    $db->do('SELECT pg_sleep(60)', {pg_async => DBD::Pg::PG_ASYNC()});
    my $running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
    select undef, undef, undef, 0.01 until value($other, $running);
    $other->disconnect;
    equal($db->pg_cancel, 1);
    equal(value($db, 'SELECT 1'), 1);
    $db->do("SET statement_timeout = '50ms'");
    fails('57014', sub { $db->do('SELECT pg_sleep(60)') });
    $db->disconnect;
}

sub clients_in_turn {
    my @clients = map { connect_to() } 0 .. 7;
    for my $step (0 .. 9) {
        for my $number (0 .. 7) {
            my $db = $clients[$number];
            $db->begin_work;
            equal(value($db, 'SELECT ?::text', "$number/$step"), "$number/$step");
            $db->do('UPDATE items SET n = ? WHERE id = ?', undef, $step, 1000 + $number);
            $db->commit;
        }
    }
    equal(value($clients[0], 'SELECT count(*) FROM items WHERE id BETWEEN 1000 AND 1007 AND n = 9'), 8);
    $_->disconnect for @clients;
}

sub servers_restart {
    my $db = connect_to();
    my $statement = $db->prepare('SELECT label FROM items WHERE id = ?');
    for (1 .. 3) {
        $statement->execute(1);
        equal(($statement->fetchrow_array)[0], 'outer');
    }
    $statement->finish;
    print "> restart\n";
    equal(scalar(<STDIN>), "done\n");
    eval { $statement->execute(1); 1 } or $statement->execute(1);
    equal(($statement->fetchrow_array)[0], 'outer');
    $statement->finish;
    equal(value($db, 'SELECT count(*) FROM items WHERE id < 10'), 9);
    $db->disconnect;
}

sub cursors {
    my $db = connect_to(AutoCommit => 0);
    my $insert = $db->prepare('INSERT INTO items (id, n) VALUES (?, ?)');
    $insert->execute($_, $_ % 7) for 5000 .. 5029;
    $db->do('DECLARE steps CURSOR FOR SELECT id FROM items WHERE id >= 5000 ORDER BY id');
    $db->do('DECLARE spread SCROLL CURSOR FOR SELECT n, count(*) FROM items WHERE id >= 5000 GROUP BY n ORDER BY n');
    my $fetch = $db->prepare('FETCH 7 FROM steps');
    my @found;
    while ($fetch->execute > 0) {
        push @found, map { $_->[0] } @{$fetch->fetchall_arrayref};
        equal(value($db, 'FETCH ABSOLUTE 7 FROM spread'), 6);
        equal(value($db, 'FETCH PRIOR FROM spread'), 5);
    }
    equal("@found", join(' ', 5000 .. 5029));
    $db->do('CLOSE ALL');
    $db->rollback;
    $db->disconnect;
}

sub large_objects {
    my $db = connect_to(AutoCommit => 0);
    my $bytes = join('', map { chr } 0 .. 255) x 100;
    my $oid = $db->pg_lo_creat($db->{pg_INV_WRITE}) or die "no large object\n";
    my $handle = $db->pg_lo_open($oid, $db->{pg_INV_WRITE});
    equal($db->pg_lo_write($handle, $bytes, length $bytes), length $bytes);
    equal($db->pg_lo_lseek($handle, 100, 0), 100);
    equal($db->pg_lo_tell($handle), 100);
    $db->pg_lo_close($handle);
    $db->commit;
    my $other = connect_to(AutoCommit => 0);
    $handle = $other->pg_lo_open($oid, $other->{pg_INV_READ});
    my $found = '';
    equal($other->pg_lo_read($handle, $found, 50000), length $bytes);
    equal($found, $bytes);
    $other->rollback;
    equal($db->pg_lo_unlink($oid), 1);
    $db->commit;
    $_->disconnect for $db, $other;
}

my $has_failed = 0;
for my $name (qw(
    connects_with_its_defaults schema_is_made types_go_both_ways statements_are_prepared transactions_and_savepoints
    errors_have_their_sqlstate copies cursors metadata large_objects a_statement_is_cancelled clients_in_turn servers_restart
)) {
    no strict 'refs';
    if (eval { &$name(); 1 }) {
        print "ok $name\n";
    } else {
        $has_failed = 1;
        print "FAILED $name\n$@\n";
    }
}
exit $has_failed;

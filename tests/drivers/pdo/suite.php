<?php
// PDO as an application uses it, with its defaults (real prepared statements) and with emulated ones.

declare(strict_types=1);

extension_loaded('pdo_pgsql') or exit("PHP has no pdo_pgsql: run `make deps`\n");

$hasFailed = false;

function connect(array $options = [], string $more = ''): PDO
{
    $dsn = sprintf('pgsql:host=%s;port=%s;dbname=%s%s', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'), $more);
    return new PDO($dsn, getenv('PGUSER'), getenv('PGPASSWORD'), $options);
}

function equal(mixed $found, mixed $expected): void
{
    if ($found !== $expected) {
        throw new Exception(var_export($found, true) . ' instead of ' . var_export($expected, true));
    }
}

function fails(string $sqlstate, callable $work): void
{
    try {
        $work();
    } catch (PDOException $error) {
        equal($error->errorInfo[0] ?? $error->getCode(), $sqlstate);
        return;
    }
    throw new Exception("succeeded instead of $sqlstate");
}

function value(PDO $db, string $sql, array $values = []): mixed
{
    $statement = $db->prepare($sql);
    $statement->execute($values);
    return $statement->fetchColumn();
}

/** Runs a check and says how it went; those after a failed one are run too. */
function check(string $name): void
{
    global $hasFailed;
    try {
        $name();
        echo "ok $name\n";
    } catch (Throwable $failure) {
        $hasFailed = true;
        echo "FAILED $name\n$failure\n";
    }
}

function connects_with_its_defaults(): void
{
    $db = connect();
    equal(value($db, 'SELECT current_database()'), 'shop');
    equal((int) $db->getAttribute(PDO::ATTR_SERVER_VERSION) >= 14, true);
    $db = connect([], ";application_name='till 7';options='-c statement_timeout=54321'");
    for ($n = 0; $n < 3; $n++) {
        equal(value($db, 'SHOW application_name'), 'till 7');
        equal(value($db, 'SHOW statement_timeout'), '54321ms');
    }
}

function schema_is_made(): void
{
    $db = connect();
    $db->exec("DROP TABLE IF EXISTS items; DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('sad', 'happy')");
    $db->exec('CREATE TABLE items (id bigint PRIMARY KEY, small smallint, n integer, amount numeric, ratio float8, label text,
        raw bytea, flag boolean, day date, at timestamptz, span interval, token uuid, doc json, attrs jsonb, tags text[], addr inet,
        feeling mood)');
    $db->exec('DROP TABLE IF EXISTS notes; CREATE TABLE notes (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)');
}

const TEXTS = [
    'small' => -7, 'n' => 2147483647, 'amount' => '12345678901234567890.000100', 'ratio' => '0.1',
    'label' => "Zoë, 名前, 🐘, it's \\ \"quoted\" ?", 'day' => '1999-12-31', 'at' => '2024-02-29 12:00:00.654321+00',
    'span' => '3 days 04:00:00', 'token' => '0b5f0d46-6ad4-4f4e-8d5a-0a6a1f2f3a4b', 'doc' => '{"a": [1, null, "ü"]}',
    'attrs' => '{"deep": true}', 'tags' => '{a,"b,c",NULL,""}', 'addr' => '10.1.2.3', 'feeling' => 'happy',
];

function types_go_both_ways(): void
{
    $raw = implode('', array_map('chr', range(0, 255)));
    $columns = implode(', ', array_keys(TEXTS));
    foreach ([false, true] as $number => $isEmulated) {
        $db = connect([PDO::ATTR_EMULATE_PREPARES => $isEmulated]);
        $db->exec('SET TIME ZONE UTC');
        $marks = implode(', ', array_map(fn ($name) => ":$name", array_keys(TEXTS)));
        $insert = $db->prepare("INSERT INTO items (id, flag, raw, $columns) VALUES (:id, :flag, :raw, $marks)");
        $select = $db->prepare("SELECT flag, raw, $columns FROM items WHERE id = :id");
        for ($id = 1 + 10 * $number; $id <= 8 + 10 * $number; $id++) {
            $insert->bindValue('id', $id, PDO::PARAM_INT);
            $insert->bindValue('flag', true, PDO::PARAM_BOOL);
            $insert->bindValue('raw', $raw, PDO::PARAM_LOB);
            foreach (TEXTS as $name => $text) {
                $insert->bindValue($name, $text, is_int($text) ? PDO::PARAM_INT : PDO::PARAM_STR);
            }
            $insert->execute();
            equal($insert->rowCount(), 1);
            $select->execute(['id' => $id]);
            $row = $select->fetch(PDO::FETCH_ASSOC);
            equal($row['flag'], true);
            equal(stream_get_contents($row['raw']), $raw);
            foreach (TEXTS as $name => $text) {
                equal((string) $row[$name], (string) $text);
            }
        }
        $nulls = $db->prepare("INSERT INTO items (id, $columns) VALUES (?" . str_repeat(', ?', count(TEXTS)) . ')');
        $nulls->execute([9 + 10 * $number, ...array_fill(0, count(TEXTS), null)]);
        equal($db->query('SELECT label FROM items WHERE id = ' . (9 + 10 * $number))->fetchColumn(), null);
    }
}

function statements_are_prepared(): void
{
    $db = connect();
    $other = connect();
    $statement = $db->prepare('SELECT id FROM items WHERE id = ?');
    for ($n = 0; $n < 20; $n++) {
        // The other client holds the server connection that the statement was prepared on.
        $other->beginTransaction();
        $other->query('SELECT 1')->fetchAll();
        $statement->execute([$n % 8 + 1]);
        equal($statement->fetchColumn(), $n % 8 + 1);
        $other->commit();
    }
}

function keys_that_the_server_makes(): void
{
    $db = connect();
    $db->exec("INSERT INTO notes (body) VALUES ('first')");
    $returned = $db->query("INSERT INTO notes (body) VALUES ('second') RETURNING id")->fetchColumn();
    equal($returned, 2);
    $db->beginTransaction();
    $db->exec("INSERT INTO notes (body) VALUES ('third')");
    equal($db->lastInsertId(), '3');
    $db->commit();
}

function transactions_and_savepoints(): void
{
    $db = connect();
    $db->beginTransaction();
    $db->exec("UPDATE items SET label = 'outer' WHERE id = 1");
    $db->exec('SAVEPOINT inside');
    $db->exec("UPDATE items SET label = 'inner' WHERE id = 1");
    fails('23505', fn () => $db->exec('INSERT INTO items (id) VALUES (1)'));
    fails('25P02', fn () => $db->query('SELECT 1'));
    $db->exec('ROLLBACK TO SAVEPOINT inside');
    equal($db->exec('UPDATE items SET n = 5 WHERE id = 2'), 1);
    equal($db->inTransaction(), true);
    $db->commit();
    equal($db->inTransaction(), false);
    equal(value($db, 'SELECT label FROM items WHERE id = 1'), 'outer');
    $db->beginTransaction();
    $db->exec("UPDATE items SET label = 'lost' WHERE id = 1");
    $db->rollBack();
    equal(value($db, 'SELECT label FROM items WHERE id = 1'), 'outer');
}

function errors_have_their_sqlstate(): void
{
    $db = connect();
    $cases = [
        'SELECT 1/0' => '22012', 'SELECT * FROM nothing_here' => '42P01', 'SELEC 1' => '42601',
        'INSERT INTO items (id) VALUES (1)' => '23505',
    ];
    foreach ($cases as $sql => $sqlstate) {
        fails($sqlstate, fn () => $db->exec($sql));
        fails($sqlstate, fn () => value($db, $sql));
        equal(value($db, 'SELECT 1'), 1);
    }
    fails('22P02', fn () => value($db, 'SELECT ?::int', ['no number']));
}

function copies(): void
{
    $db = connect();
    $lines = array_map(fn ($id) => "$id\tlabel $id", range(1000, 1999));
    equal($db->pgsqlCopyFromArray('items', $lines, "\t", '\\\\N', 'id, label'), true);
    equal(value($db, 'SELECT count(*) FROM items WHERE id >= 1000'), 1000);
    fails('23505', fn () => $db->pgsqlCopyFromArray('items', ['1'], "\t", '\\\\N', 'id'));
    if (getenv('SHARDS') === '1') {
        $found = $db->pgsqlCopyToArray('items', "\t", '\\\\N', 'id, label');
        equal(count(array_intersect(array_map('trim', $found), $lines)), 1000);
    }
}

function clients_in_turn(): void
{
    $clients = array_map(fn () => connect(), range(0, 7));
    foreach (range(0, 9) as $step) {
        foreach ($clients as $number => $db) {
            $db->beginTransaction();
            equal(value($db, 'SELECT ?::text', ["$number/$step"]), "$number/$step");
            $db->prepare('UPDATE items SET n = ? WHERE id = ?')->execute([$step, 1000 + $number]);
            $db->commit();
        }
    }
    equal(value(connect(), 'SELECT count(*) FROM items WHERE id BETWEEN 1000 AND 1007 AND n = 9'), 8);
}

function cursors(): void
{
    $db = connect();
    $insert = $db->prepare('INSERT INTO items (id, n) VALUES (?, ?)');
    for ($id = 5000; $id < 5030; $id++) {
        $insert->execute([$id, $id % 7]);
    }
    // Without a transaction: PDO declares them SCROLL and WITH HOLD.
    foreach (['id, n', 'DISTINCT id, n', 'id, max(n) OVER () AS n'] as $columns) {
        $sql = "SELECT $columns FROM items WHERE id >= 5000 ORDER BY id";
        $statement = $db->prepare($sql, [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
        $statement->execute();
        $id = fn (int $orientation, int $offset = 0) => (int) $statement->fetch(PDO::FETCH_ASSOC, $orientation, $offset)['id'];
        equal($id(PDO::FETCH_ORI_NEXT), 5000);
        equal($id(PDO::FETCH_ORI_LAST), 5029);
        equal($id(PDO::FETCH_ORI_PRIOR), 5028);
        equal($id(PDO::FETCH_ORI_ABS, 3), 5002);
        equal($id(PDO::FETCH_ORI_REL, 4), 5006);
        equal($id(PDO::FETCH_ORI_FIRST), 5000);
        $statement = null;
    }
    $db->beginTransaction();
    $db->exec('DECLARE steps CURSOR FOR SELECT id FROM items WHERE id >= 5000 ORDER BY id');
    $found = [];
    while ($rows = $db->query('FETCH 7 FROM steps')->fetchAll(PDO::FETCH_COLUMN)) {
        array_push($found, ...array_map('intval', $rows));
        equal(value($db, 'SELECT count(*) FROM items WHERE id >= 5000'), 30);
    }
    equal($found, range(5000, 5029));
    $db->commit();
    $db->exec('DELETE FROM items WHERE id = 5000');
}

function servers_restart(): void
{
    $db = connect();
    $statement = $db->prepare('SELECT label FROM items WHERE id = ?');
    $statement->execute([1]);
    equal($statement->fetchColumn(), 'outer');
    echo "> restart\n";
    equal(fgets(STDIN), "done\n");
    try {
        $statement->execute([1]);
    } catch (PDOException) {
        $statement->execute([1]);
    }
    equal($statement->fetchColumn(), 'outer');
    equal(value($db, 'SELECT count(*) FROM items WHERE id < 10'), 9);
}

function large_objects(): void
{
    $bytes = str_repeat(implode('', array_map('chr', range(0, 255))), 100);
    $db = connect();
    $db->beginTransaction();
    $oid = $db->pgsqlLOBCreate();
    $stream = $db->pgsqlLOBOpen($oid, 'w');
    equal(fwrite($stream, $bytes), strlen($bytes));
    fclose($stream);
    $db->commit();
    $other = connect();
    $other->beginTransaction();
    equal(stream_get_contents($other->pgsqlLOBOpen($oid, 'r')), $bytes);
    $other->rollBack();
    $db->beginTransaction();
    equal($db->pgsqlLOBUnlink($oid), true);
    $db->commit();
    equal(value($other, 'SELECT count(*) FROM pg_largeobject_metadata WHERE oid = ?', [$oid]), 0);
}

check('connects_with_its_defaults');
check('schema_is_made');
check('types_go_both_ways');
check('statements_are_prepared');
check('keys_that_the_server_makes');
check('transactions_and_savepoints');
check('errors_have_their_sqlstate');
check('copies');
check('cursors');
check('large_objects');
check('clients_in_turn');
check('servers_restart');
exit($hasFailed ? 1 : 0);

# Ruby's pg as an application uses it, with its defaults.

require 'bigdecimal'
require 'date'
require 'ipaddr'
begin
  require 'pg'
rescue LoadError
  abort 'Ruby has no pg: run `make deps`'
end

def connect(**options) = PG.connect(ENV['DATABASE_URL'], **options)

def with_connection(**options)
  connection = connect(**options)
  yield connection
ensure
  connection&.close
end

def value(connection, sql, values = []) = connection.exec_params(sql, values).getvalue(0, 0)

def equal(found, expected)
  raise "#{found.inspect} instead of #{expected.inspect}" unless found == expected
end

def fails(sqlstate)
  yield
rescue PG::Error => e
  equal(e.result.error_field(PG::Result::PG_DIAG_SQLSTATE), sqlstate)
else
  raise "succeeded instead of #{sqlstate}"
end

def connects_with_its_defaults
  with_connection do |connection|
    equal(value(connection, 'SELECT current_database()'), 'shop')
    equal(connection.server_version >= 140_000, true)
    equal(connection.parameter_status('client_encoding'), 'UTF8')
    equal(connection.transaction_status, PG::PQTRANS_IDLE)
  end
  with_connection(application_name: 'till 7', options: '-c statement_timeout=54321') do |connection|
    3.times do
      equal(value(connection, 'SHOW application_name'), 'till 7')
      equal(value(connection, 'SHOW statement_timeout'), '54321ms')
    end
  end
end

def schema_is_made
  with_connection do |connection|
    connection.exec("DROP TABLE IF EXISTS items; DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('sad', 'happy')")
    connection.exec('CREATE TABLE items (id bigint PRIMARY KEY, n integer, amount numeric, ratio float8, label text, raw bytea,
      flag boolean, day date, at timestamptz, token uuid, attrs jsonb, scores integer[], addr inet, feeling mood)')
  end
end

VALUES = {
  n: 2_147_483_647, amount: BigDecimal('12345678901234567890.000100'), ratio: 0.1, label: "Zoë, 名前, 🐘, it's \\ \"quoted\"",
  raw: (0..255).to_a.pack('C*'), flag: true, day: Date.new(1999, 12, 31), at: Time.utc(2024, 2, 29, 12, 0, 0, 654_321),
  token: '0b5f0d46-6ad4-4f4e-8d5a-0a6a1f2f3a4b', attrs: { 'deep' => true }, scores: [1, 2, 3], addr: IPAddr.new('10.1.2.3'),
  feeling: 'happy'
}.freeze

# The driver's type maps ask pg_type for OIDs, and send parameters with them.
def types_go_both_ways
  columns = VALUES.keys.join(', ')
  marks = (2..VALUES.size + 1).map { |n| "$#{n}" }.join(', ')
  with_connection do |connection|
    connection.type_map_for_queries = PG::BasicTypeMapForQueries.new(connection)
    connection.type_map_for_results = PG::BasicTypeMapForResults.new(connection)
    given = VALUES.merge(raw: PG::BasicTypeMapForQueries::BinaryData.new(VALUES[:raw]))
    (1..8).each do |id|
      equal(connection.exec_params("INSERT INTO items (id, #{columns}) VALUES ($1, #{marks})", [id, *given.values]).cmd_tuples, 1)
      [0, 1].each do |format|
        # In binary the driver knows fewer types.
        names = format.zero? ? VALUES.keys - %i[token feeling] : %i[n ratio label raw flag]
        row = connection.exec_params("SELECT #{names.join(', ')} FROM items WHERE id = $1", [id], format)[0]
        names.each { |name| equal(row[name.to_s], VALUES[name]) }
      end
    end
    connection.exec_params("INSERT INTO items (id, #{columns}) VALUES ($1, #{marks})", [9, *[nil] * VALUES.size])
    equal(connection.exec("SELECT #{columns} FROM items WHERE id = 9").values, [[nil] * VALUES.size])
    connection.type_map_for_results = PG::TypeMapAllStrings.new
    equal(connection.exec('SELECT token, feeling FROM items WHERE id = 8').values, [VALUES.values_at(:token, :feeling)])
  end
end

def statements_are_prepared
  with_connection do |connection|
    with_connection do |other|
      connection.prepare('by id', 'SELECT id FROM items WHERE id = $1')
      other.prepare('by id', 'SELECT n FROM items WHERE id = $1')
      equal(connection.describe_prepared('by id').fname(0), 'id')
      20.times do |n|
        # The other client holds the server connection that the statement was prepared on.
        other.exec('BEGIN')
        equal(other.exec_prepared('by id', [1]).getvalue(0, 0), '2147483647')
        equal(connection.exec_prepared('by id', [n % 8 + 1]).getvalue(0, 0), (n % 8 + 1).to_s)
        other.exec('COMMIT')
      end
      fails('42P05') { connection.prepare('by id', 'SELECT 1') }
      fails('26000') { connection.exec_prepared('unknown') }
      equal(value(connection, 'SELECT 1'), '1')
    end
  end
end

def rows_come_one_by_one
  with_connection do |connection|
    connection.send_query('SELECT n FROM generate_series(1, 1000) AS n')
    connection.set_single_row_mode
    n = 0
    connection.get_result.stream_each { |row| equal(row['n'], (n += 1).to_s) }
    equal(n, 1000)
    connection.get_last_result
    # Two statements in one string, two results.
    connection.send_query('SELECT 1; SELECT 2')
    results = []
    while (result = connection.get_result)
      results << result.getvalue(0, 0)
    end
    equal(results, %w[1 2])
  end
end

def pipelines
  with_connection do |connection|
    connection.enter_pipeline_mode
    100.times { |n| connection.send_query_params('SELECT $1::int * 2', [n]) }
    connection.pipeline_sync
    100.times do |n|
      equal(connection.get_result.getvalue(0, 0), (n * 2).to_s)
      equal(connection.get_result, nil)
    end
    equal(connection.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
    connection.send_query_params('SELECT 1/0', [])
    connection.send_query_params('SELECT 1', [])
    connection.pipeline_sync
    equal(connection.get_result.error_field(PG::Result::PG_DIAG_SQLSTATE), '22012')
    equal(connection.get_result, nil)
    equal(connection.get_result.result_status, PG::PGRES_PIPELINE_ABORTED)
    equal(connection.get_result, nil)
    equal(connection.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
    connection.exit_pipeline_mode
    equal(value(connection, 'SELECT 1'), '1')
  end
end

def transactions_and_savepoints
  with_connection do |connection|
    connection.transaction do
      connection.exec("UPDATE items SET label = 'outer' WHERE id = 1")
      connection.exec('SAVEPOINT inside')
      connection.exec("UPDATE items SET label = 'inner' WHERE id = 1")
      fails('23505') { connection.exec('INSERT INTO items (id) VALUES (1)') }
      equal(connection.transaction_status, PG::PQTRANS_INERROR)
      fails('25P02') { connection.exec('SELECT 1') }
      connection.exec('ROLLBACK TO SAVEPOINT inside')
      connection.exec('UPDATE items SET n = 5 WHERE id = 2')
      equal(connection.transaction_status, PG::PQTRANS_INTRANS)
    end
    equal(value(connection, 'SELECT label FROM items WHERE id = 1'), 'outer')
    equal(value(connection, 'SELECT n FROM items WHERE id = 2'), '5')
    begin
      connection.transaction do
        connection.exec("UPDATE items SET label = 'lost' WHERE id = 1")
        raise KeyError
      end
    rescue KeyError
      equal(value(connection, 'SELECT label FROM items WHERE id = 1'), 'outer')
    end
  end
end

def errors_have_their_sqlstate
  with_connection do |connection|
    { 'SELECT 1/0' => '22012', 'SELECT * FROM nothing_here' => '42P01', 'SELEC 1' => '42601',
      'INSERT INTO items (id) VALUES (1)' => '23505' }.each do |sql, sqlstate|
      fails(sqlstate) { connection.exec(sql) }
      fails(sqlstate) { connection.exec_params(sql, []) }
      equal(value(connection, 'SELECT 1'), '1')
    end
    notices = []
    connection.set_notice_processor { |message| notices << message }
    connection.exec('DROP TABLE IF EXISTS nothing_here')
    equal(notices, ["NOTICE:  table \"nothing_here\" does not exist, skipping\n"])
  end
end

def copies
  with_connection do |connection|
    encoder = PG::TextEncoder::CopyRow.new
    connection.copy_data('COPY items (id, label) FROM STDIN', encoder) do
      (1000...2000).each { |id| connection.put_copy_data([id, id.even? ? nil : "tab\there #{id}"]) }
    end
    equal(connection.exec('SELECT count(*), count(label) FROM items WHERE id >= 1000').values, [%w[1000 500]])
    fails('22P02') { connection.copy_data('COPY items (id, n) FROM STDIN', encoder) { connection.put_copy_data([2000, 'no number']) } }
    begin
      connection.copy_data('COPY items (id) FROM STDIN', encoder) { raise KeyError }
    rescue KeyError
      equal(value(connection, 'SELECT count(*) FROM items WHERE id >= 2000'), '0')
    end
    if ENV['SHARDS'] == '1'
      rows = []
      decoder = PG::TextDecoder::CopyRow.new
      connection.copy_data('COPY (SELECT id, label FROM items WHERE id >= 1000 ORDER BY id) TO STDOUT', decoder) do
        while (row = connection.get_copy_data)
          rows << row
        end
      end
      equal(rows[0..1], [['1000', nil], ['1001', "tab\there 1001"]])
      equal(rows.size, 1000)
    end
  end
end

def notifications_come
  # A notification goes through one server.
  return unless ENV['SHARDS'] == '1'

  with_connection do |listener|
    with_connection do |other|
      listener.exec('LISTEN till')
      other.exec("NOTIFY till, 'open'")
      heard = nil
      listener.wait_for_notify(30) { |channel, _, payload| heard = [channel, payload] }
      equal(heard, %w[till open])
      listener.exec('UNLISTEN *')
    end
  end
end

def a_statement_is_cancelled
  with_connection do |connection|
    connection.send_query('SELECT pg_sleep(60)')
    # Again and again: the first may come before the statement.
    connection.cancel until connection.block(0.05)
    fails('57014') { connection.get_last_result }
    equal(value(connection, 'SELECT 1'), '1')
  end
end

def clients_at_once
  workers = (0..7).map do |worker|
    Thread.new do
      with_connection do |connection|
        30.times do |step|
          equal(value(connection, 'SELECT $1::text', ["#{worker}/#{step}"]), "#{worker}/#{step}")
          connection.exec_params('UPDATE items SET n = $1 WHERE id = $2', [step, 1000 + worker])
        end
      end
    end
  end
  workers.each(&:join)
  with_connection do |connection|
    equal(value(connection, 'SELECT count(*) FROM items WHERE id BETWEEN 1000 AND 1007 AND n = 29'), '8')
  end
end

def large_objects
  with_connection do |connection|
    bytes = (0..255).to_a.pack('C*') * 1000
    oid = connection.transaction do |block|
      created = block.lo_creat
      descriptor = block.lo_open(created, PG::INV_READ | PG::INV_WRITE)
      equal(block.lo_write(descriptor, bytes), bytes.bytesize)
      block.lo_seek(descriptor, 1000, PG::SEEK_SET)
      equal(block.lo_tell(descriptor), 1000)
      block.lo_truncate(descriptor, 200_000)
      block.lo_close(descriptor)
      created
    end
    with_connection do |other|
      other.transaction do |block|
        equal(block.lo_read(block.lo_open(oid, PG::INV_READ), 300_000), bytes[0, 200_000])
      end
      equal(value(other, 'SELECT length(lo_get($1))', [oid]), '200000')
    end
    connection.lo_unlink(oid)
    fails('42704') { connection.exec_params('SELECT lo_get($1)', [oid]) }
  end
end

def cursors
  with_connection do |connection|
    (5000...5030).each { |id| connection.exec_params('INSERT INTO items (id, n) VALUES ($1, $2)', [id, id % 7]) }
    connection.transaction do |block|
      block.exec_params('DECLARE steps CURSOR FOR SELECT id FROM items WHERE id >= $1 ORDER BY id', [5000])
      block.exec_params('DECLARE spread SCROLL CURSOR FOR SELECT DISTINCT n FROM items WHERE id >= $1 ORDER BY n', [5000])
      found = []
      until (rows = block.exec('FETCH 7 FROM steps')).ntuples.zero?
        found.concat(rows.column_values(0).map(&:to_i))
        equal(value(block, 'FETCH LAST FROM spread'), '6')
        equal(value(block, 'FETCH FIRST FROM spread'), '0')
      end
      equal(found, (5000...5030).to_a)
    end
    fails('34000') { connection.exec('FETCH 1 FROM steps') }
    data = []
    connection.copy_data('COPY (SELECT id, n FROM items WHERE id >= 5000 ORDER BY id) TO STDOUT (FORMAT csv)') do
      while (line = connection.get_copy_data)
        data << line
      end
    end
    equal(data, (5000...5030).map { |id| "#{id},#{id % 7}\n" })
    (5000...5030).each { |id| connection.exec_params('DELETE FROM items WHERE id = $1', [id]) }
  end
end

def servers_restart
  with_connection do |connection|
    connection.prepare('label', 'SELECT label FROM items WHERE id = $1')
    equal(connection.exec_prepared('label', [1]).getvalue(0, 0), 'outer')
    puts '> restart'
    equal($stdin.gets, "done\n")
    begin
      connection.exec_prepared('label', [1])
    rescue PG::Error => e
      puts "after the restart: #{e.message}"
    end
    equal(connection.exec_prepared('label', [1]).getvalue(0, 0), 'outer')
    equal(value(connection, 'SELECT count(*) FROM items WHERE id < 10'), '9')
  end
end

$stdout.sync = true
checks = %i[connects_with_its_defaults schema_is_made types_go_both_ways statements_are_prepared rows_come_one_by_one pipelines
            transactions_and_savepoints errors_have_their_sqlstate copies cursors notifications_come large_objects a_statement_is_cancelled clients_at_once servers_restart]
failed = checks.reject do |check|
  send(check)
  puts "ok #{check}"
  true
rescue StandardError => e
  puts "FAILED #{check}", e.full_message(highlight: false)
end
exit failed.empty?

// What node-postgres and its companions make of a database, as a transcript: what is printed, and the kind and length of each
// message that came, must be the same whatever is between. Nothing in it is of this run: no time, no process number, no oid.

const { Readable } = require('node:stream');
const { pipeline } = require('node:stream/promises');
const pg = require('pg');
const Cursor = require('pg-cursor');
const QueryStream = require('pg-query-stream');
const copy = require('pg-copy-streams');

const OPTIONS = { ssl: { rejectUnauthorized: false }, application_name: 'transcript', options: '-c search_path=transcript,public' };
const ROWS = 5000;
const ERROR_FIELDS = ['severity', 'code', 'message', 'detail', 'hint', 'position', 'internalPosition', 'internalQuery', 'where',
  'schema', 'table', 'column', 'dataType', 'constraint', 'routine', 'length'];

function plain(key, value) {
  if (value && value.type === 'Buffer') return `\\x${Buffer.from(value.data).toString('hex')}`;
  if (typeof value === 'string' && value.length > 300) return `${value.slice(0, 40)}... (${value.length})`;
  return value;
}

const say = (what, value) => console.log(`${plain('', what)}: ${JSON.stringify(value, plain)}`);
const fields = (error) => Object.fromEntries(ERROR_FIELDS.filter((name) => error[name] !== undefined).map((name) => [name, error[name]]));
const outcome = (result) => (Array.isArray(result) ? result.map(outcome)
  : { command: result.command, count: result.rowCount, rows: result.rows, columns: result.fields.map(column) });
const column = ({ name, columnID, dataTypeSize, dataTypeModifier, format }) => [name, columnID, dataTypeSize, dataTypeModifier, format];

async function trial(what, work) {
  try {
    say(what, await work());
  } catch (error) {
    say(`${what} fails`, error.code ? fields(error) : error.message);
  }
}

/// A connection that writes down which messages come after it is ready: how many of a kind, and how long they are.
async function connected(options = {}) {
  const client = new pg.Client({ ...OPTIONS, ...options });
  client.on('notice', (notice) => say('notice', fields(notice)));
  client.on('error', (error) => say('connection fails', error.code ? fields(error) : error.message));
  await client.connect();
  client.heard = [];
  client.connection.on('message', ({ name, length }) => {
    const last = client.heard.at(-1);
    const counted = name === 'error' ? 0 : length; // an error's is among its fields
    if (last && last[0] === name) {
      last[1] += 1;
      last[2] += counted;
    } else {
      client.heard.push([name, 1, counted]);
    }
  });
  return client;
}

async function left(client) {
  await client.query(''); // an error is told before the ReadyForQuery behind it
  for (const heard of client.heard) console.log(`  ${heard.join(' ')}`);
  await client.end();
}

const sections = {
  async start() {
    const client = new pg.Client(OPTIONS);
    const status = {};
    client.connection.on('parameterStatus', ({ parameterName, parameterValue }) => { status[parameterName] = parameterValue; });
    await client.connect();
    say('status', Object.entries(status).sort());
    await client.query('SET application_name = other; SET TimeZone = \'Asia/Kolkata\'; SET DateStyle = German');
    say('status', Object.entries(status).sort());
    await client.end();
    await trial('no such database', async () => {
      const other = new pg.Client({ ...OPTIONS, database: 'missing' });
      await other.connect();
    });
    await trial('another parameter', async () => {
      const other = new pg.Client({ ...OPTIONS, options: '-c work_mem=7MB' });
      await other.connect();
      const { rows } = await other.query('SHOW work_mem');
      await other.end();
      return rows;
    });
    const set = await connected({ options: '-c geqo=off -c search_path=public,"a\\ b"', statement_timeout: 4321, lock_timeout: 321 });
    say('options', (await set.query('SHOW geqo; SHOW statement_timeout; SHOW lock_timeout; SHOW search_path')).map((it) => it.rows));
    await left(set);
  },

  async simple() {
    const client = await connected();
    for (const text of [
      '', ';', '-- nothing', 'SELECT', 'SELECT 1 AS one, NULL AS nothing', 'SELECT * FROM orders ORDER BY id', 'TABLE customers',
      'SELECT 1; SELECT 2 AS two, 3; ; SHOW server_version_num', 'SELECT 1; SELECT 1/0; SELECT 2', 'SELEC 1', 'SELECT 1 FROM missing',
      'BEGIN; CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2) RETURNING id; DELETE FROM t; ROLLBACK',
      'BEGIN', 'SELECT nothing', 'SELECT 1', 'COMMIT', 'COMMIT', 'VALUES (1, \'a\'), (2, \'b\')', 'EXPLAIN (COSTS off) SELECT 1',
      'DO $$ BEGIN RAISE NOTICE \'seen %\', 1; RAISE EXCEPTION \'no\' USING DETAIL = \'d\', HINT = \'h\', ERRCODE = \'22012\', TABLE = \'t\', COLUMN = \'c\', CONSTRAINT = \'k\', DATATYPE = \'y\', SCHEMA = \'s\'; END $$',
      'SELECT E\'\\u00e9\\n\', U&\'\\0061\', $tag$it\'s$tag$, \'a\' \'b\'', 'SELECT "Ünï" FROM (SELECT 1 AS "Ünï") AS t',
      'SELECT repeat(\'x\', 8 * 1024 * 1024) AS large', `SELECT length('${'y'.repeat(900 * 1024)}')`,
      `SELECT n, md5(n::text) FROM generate_series(1, 3) AS n`,
    ]) {
      await trial(text, async () => outcome(await client.query(text)));
    }
    await trial('arrays', async () => (await client.query({ text: 'SELECT 1 AS a, 2 AS a', rowMode: 'array' })).rows);
    await left(client);
  },

  async types() {
    const client = await connected();
    await client.query("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN few AS int CHECK (VALUE < 9)");
    const values = [
      ['bool', true], ['int2', -3], ['int4', 2147483647], ['int8', '9223372036854775807'], ['float4', 1.5], ['float8', 'NaN'], ['numeric', '12345678901234567890.0987654321'],
      ['text', 'grüße \u{1F600}'], ['varchar(3)', 'abc'], ['char(5)', 'ab'], ['name', 'n'], ['bytea', Buffer.from([0, 1, 254, 255])], ['date', '2024-02-29'],
      ['time', '23:59:59.123456'], ['timetz', '12:00:00+02'], ['timestamp', '2000-01-01 00:00:00.5'], ['timestamptz', '1999-12-31 23:59:59.999999+00'], ['timestamptz', 'infinity'],
      ['interval', '1 year 2 months -3 days 04:05:06.7'], ['uuid', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'], ['json', '{"a": [1, null]}'], ['jsonb', '{"b": {"c": "d"}}'], ['xml', '<a>b</a>'],
      ['inet', '10.1.2.3/8'], ['cidr', '10.0.0.0/8'], ['macaddr', '08:00:2b:01:02:03'], ['bit(4)', '1010'], ['varbit', '11'], ['money', '12.34'], ['point', '(1,2)'], ['box', '((0,0),(1,1))'],
      ['path', '[(0,0),(1,1)]'], ['circle', '<(1,2),3>'], ['int4range', '[1,5)'], ['nummultirange', '{[1,2],(3,4)}'], ['int4[]', [1, 2, null]], ['text[]', ['a,b', '"', 'NULL', null]], ['text[][]', [['a'], ['b']]],
      ['tsvector', "'a':1 'b':2"], ['tsquery', "'a' & 'b'"], ['mood', 'ok'], ['pair', '(1,"x,y")'], ['few', 5], ['few', 12], ['oid', 5], ['int4', 'no number'], ['int4', null], ['bool', 'maybe'],
    ];
    for (const binary of [false, true]) {
      for (const [type, value] of values) {
        const text = `SELECT $1::${type} AS value`;
        await trial(`${text} ${binary ? 'binary' : 'text'}`, async () => (await client.query({ text, values: [value], binary, types: { getTypeParser: () => (it) => it } })).rows[0].value);
        await trial(`${text} parsed`, async () => String((await client.query({ text, values: [value] })).rows[0].value));
      }
    }
    await left(client);
  },

  async prepared() {
    const client = await connected();
    const named = { name: 'by id', text: 'SELECT id, item FROM orders WHERE id = $1' };
    for (const id of [1, 2, 0, 'three', null, 1]) {
      await trial(`named ${id}`, async () => outcome(await client.query({ ...named, values: [id] })));
    }
    await trial('another text', () => client.query({ name: 'by id', text: 'SELECT 1' }));
    await trial('wrong count', () => client.query({ text: 'SELECT $1::int, $2::int', values: [1] }));
    await trial('no type', () => client.query({ text: 'SELECT $1', values: [1] }).then(outcome));
    await trial('two at once', () => client.query({ text: 'SELECT 1; SELECT 2', values: [], queryMode: 'extended' }));
    await trial('extended', async () => outcome(await client.query({ text: 'SELECT 3 AS three', queryMode: 'extended' })));
    await trial('listed', async () => (await client.query('SELECT name, statement, parameter_types, from_sql FROM pg_prepared_statements')).rows);
    await client.query('PREPARE plan (int) AS SELECT $1 + 1 AS more');
    await trial('execute', async () => outcome(await client.query('EXECUTE plan(41)')));
    await trial('deallocate', async () => outcome(await client.query('DEALLOCATE plan; DEALLOCATE "by id"')));
    await trial('a plan that is gone', () => client.query({ ...named, values: [1] }));
    await trial('again', () => client.query('EXECUTE plan(41)'));
    // A plan whose result changes.
    await client.query('CREATE TEMP TABLE t AS SELECT 1 AS a');
    const star = { name: 'star', text: 'SELECT * FROM t' };
    await trial('star', async () => outcome(await client.query(star)));
    await client.query('ALTER TABLE t ADD b text');
    await trial('star', async () => outcome(await client.query(star)));
    await client.query('DISCARD ALL');
    for (let number = 0; number < 200; number += 1) {
      const { rows } = await client.query({ name: `plan ${number}`, text: `SELECT $1::int + ${number} AS n`, values: [number] });
      if (rows[0].n !== 2 * number) say('wrong', rows);
    }
    await trial('many', async () => (await client.query('SELECT count(*) FROM pg_prepared_statements')).rows);
    await left(client);
  },

  async transactions() {
    const client = await connected();
    await client.query('CREATE TABLE papers (id int PRIMARY KEY, v text NOT NULL, up int REFERENCES papers, CHECK (id < 100))');
    for (const [text, values] of [
      ['BEGIN ISOLATION LEVEL SERIALIZABLE'], ['INSERT INTO papers VALUES ($1, $2) RETURNING *', [1, 'a']], ['SAVEPOINT s'], ['INSERT INTO papers VALUES ($1, $2)', [1, 'b']],
      ['SELECT $1::int', [1]], ['ROLLBACK TO s'], ['INSERT INTO papers VALUES ($1, $2)', [2, null]], ['ROLLBACK TO s'], ['INSERT INTO papers VALUES ($1, $2)', [200, 'x']], ['ROLLBACK TO SAVEPOINT s'],
      ['INSERT INTO papers VALUES ($1, $2, $3)', [3, 'x', 77]], ['ROLLBACK TO s'], ['RELEASE s'], ['INSERT INTO papers VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING v', [1, 'c']],
      ['SHOW transaction_isolation'], ['COMMIT AND CHAIN'], ['SELECT * FROM papers WHERE v = ANY($1)', [['c', 'd']]], ['SELECT broken'], ['COMMIT'],
      ['BEGIN READ ONLY'], ['INSERT INTO orders SELECT * FROM orders'], ['ROLLBACK'],
      ['WITH moved AS (DELETE FROM papers RETURNING *) SELECT count(*) FROM moved'], ['BEGIN; DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT n FROM generate_series(1, 9) AS n'], ['FETCH 2 FROM c'],
      ['FETCH LAST FROM c'], ['COMMIT'], ['FETCH BACKWARD 2 FROM c'], ['MOVE ABSOLUTE 4 IN c'], ['FETCH NEXT FROM c'], ['CLOSE c'], ['FETCH c'],
    ]) {
      await trial(text, async () => outcome(await client.query(text, values)));
    }
    await left(client);
  },

  async cursors() {
    const client = await connected();
    const cursor = client.query(new Cursor('SELECT n, repeat($2, n) AS text FROM generate_series(1, $1) AS n', [25, 'z']));
    for (const count of [1, 10, 13, 5, 5]) {
      await trial(`read ${count}`, () => cursor.read(count));
    }
    await cursor.close();
    const early = client.query(new Cursor('SELECT n FROM generate_series(1, 1000000) AS n'));
    await trial('early', async () => (await early.read(3)).length);
    await early.close();
    const failing = client.query(new Cursor('SELECT 10 / (3 - n) AS tenth FROM generate_series(1, 5) AS n'));
    await trial('before', () => failing.read(2));
    await trial('failing', () => failing.read(2));
    await failing.close().catch((error) => say('close', error.message));
    await trial('unknown', () => client.query(new Cursor('SELECT nothing')).read(1));
    await trial('after', async () => outcome(await client.query('SELECT $1::text', ['on'])));
    const rows = [];
    for await (const { n } of client.query(new QueryStream('SELECT n FROM generate_series(1, $1) AS n', [ROWS], { batchSize: 333 }))) rows.push(n);
    say('streamed', [rows.length, rows.reduce((a, b) => a + b)]);
    const broken = client.query(new QueryStream('SELECT n FROM generate_series(1, 1000000) AS n', [], { batchSize: 10 }));
    for await (const { n } of broken) if (n === 25) break;
    await trial('stream fails', async () => { for await (const _ of client.query(new QueryStream('SELECT 1 / (50 - n) FROM generate_series(1, 100) AS n', [], { batchSize: 20 }))); });
    await trial('last', async () => outcome(await client.query('SELECT 1 AS one')));
    await left(client);
  },

  async copies() {
    const client = await connected();
    await client.query('CREATE TEMP TABLE t (id int, body text, raw bytea)');
    const text = () => Readable.from((function* lines() { for (let id = 0; id < ROWS; id += 1) yield `${id}\tbody \\\\ ${id}\\n\t${id % 7 ? `\\\\x${'ab'.repeat(id % 50)}` : '\\N'}\n`; }()));
    const into = async (statement, source) => {
      const stream = client.query(copy.from(statement));
      await pipeline(source, stream);
      return stream.rowCount;
    };
    const out = async (statement) => {
      const stream = client.query(copy.to(statement));
      const chunks = [];
      for await (const chunk of stream) chunks.push(chunk);
      const all = Buffer.concat(chunks);
      return [all, stream.rowCount];
    };
    await trial('in', () => into('COPY t FROM STDIN', text()));
    const formats = {};
    for (const format of ['text', 'csv', 'binary']) {
      const [all, count] = await out(`COPY (SELECT * FROM t ORDER BY id) TO STDOUT WITH (FORMAT ${format})`);
      formats[format] = all;
      say(format, [count, all.length, require('node:crypto').createHash('sha256').update(all).digest('hex')]);
    }
    for (const format of ['text', 'csv', 'binary']) {
      await client.query('TRUNCATE t');
      await trial(`back ${format}`, () => into(`COPY t FROM STDIN WITH (FORMAT ${format})`, Readable.from([formats[format]])));
      await trial('same', async () => (await client.query('SELECT count(*), sum(length(body)), sum(length(raw)), md5(string_agg(id || body, \',\' ORDER BY id)) FROM t')).rows);
    }
    await trial('header', async () => String((await out('COPY (SELECT 1 AS "a b", \'x,y\' AS c) TO STDOUT WITH (FORMAT csv, HEADER, FORCE_QUOTE *)'))[0]));
    await trial('bad row', () => into('COPY t FROM STDIN', Readable.from(['1\ta\t\\\\x00\n', 'two\tb\t\\N\n', '3\tc\t\\N\n'])));
    await trial('bad width', () => into('COPY t FROM STDIN', Readable.from(['1\n'])));
    await trial('no table', () => into('COPY missing FROM STDIN', Readable.from(['1\n'])));
    await trial('given up', () => into('COPY t FROM STDIN', Readable.from((function* broken() { yield '1\ta\t\\N\n'; throw new Error('the source broke'); }()))));
    await trial('out fails', () => out('COPY (SELECT 1 / (900 - n) FROM generate_series(1, 1000) AS n) TO STDOUT'));
    await trial('count', async () => outcome(await client.query('SELECT count(*) FROM t')));
    await trial('aborts a transaction', async () => {
      await client.query('BEGIN');
      await into('COPY t FROM STDIN', Readable.from(['x\n']));
    });
    await trial('in it', () => client.query('SELECT 1'));
    await trial('out of it', async () => outcome(await client.query('ROLLBACK')));
    // How COPY's data is cut into messages is the server's and the network's affair.
    client.heard = client.heard.filter(([name]) => !name.startsWith('copyData'));
    await left(client);
  },

  async notifications() {
    const [listener, speaker] = [await connected(), await connected()];
    const heard = [];
    let enough;
    listener.on('notification', ({ channel, payload, processId }) => {
      heard.push([channel, payload, processId === speaker.processID]);
      if (payload === 'last') enough();
    });
    const all = new Promise((resolve) => { enough = resolve; });
    await listener.query('LISTEN news; LISTEN "Other Channel"');
    await speaker.query('NOTIFY news; NOTIFY unheard, \'no\'; NOTIFY news, \'with payload\'');
    await speaker.query('SELECT pg_notify($1, $2)', ['Other Channel', 'é'.repeat(100)]);
    await speaker.query('BEGIN; NOTIFY news, \'rolled back\'; ROLLBACK');
    await trial('too long', () => speaker.query('SELECT pg_notify($1, $2)', ['news', 'x'.repeat(9000)]));
    await speaker.query('BEGIN; NOTIFY news, \'twice\'; NOTIFY news, \'twice\'; COMMIT; NOTIFY news, \'last\'');
    await all;
    say('notified', heard);
    await trial('listening', async () => (await listener.query('SELECT pg_listening_channels()')).rows);
    await listener.query('UNLISTEN *');
    listener.heard = []; // when they come is nobody's promise
    await left(listener);
    await left(speaker);
  },

  async pipelined() {
    const client = await connected({ pipeline: true });
    await client.query('CREATE TABLE piped (id int PRIMARY KEY)');
    const sent = [];
    for (let number = 0; number < 100; number += 1) sent.push(client.query('SELECT $1::int * 2 AS double', [number]));
    say('sum', (await Promise.all(sent)).reduce((sum, { rows }) => sum + rows[0].double, 0));
    const mixed = [
      client.query('INSERT INTO piped VALUES ($1)', [1]), client.query('INSERT INTO piped VALUES ($1)', [1]), client.query('SELECT count(*) FROM piped'), client.query('SELECT 1/0; SELECT 1'),
      client.query({ name: 'kept', text: 'SELECT $1::text AS kept', values: ['a'] }), client.query({ name: 'kept', text: 'SELECT $1::text AS kept', values: ['b'] }), client.query('BEGIN'), client.query('SELECT nothing'),
      client.query('SELECT $1::int', [5]), client.query('ROLLBACK'), client.query(''), client.query('SELECT repeat($1, 100000) AS long', ['l']), client.query('SELECT length($1)', ['m'.repeat(200000)]),
    ];
    for (const [number, { status, value, reason }] of (await Promise.allSettled(mixed)).entries()) {
      say(`${number} ${status}`, value ? outcome(value) : fields(reason));
    }
    await left(client);
    // One batch, by hand: what is behind the error is skipped until the Sync.
    const batch = await connected();
    const statements = ['SELECT 1 AS a', 'SELECT n FROM generate_series(1, 3) AS n', 'SELECT 1/(n - 2) FROM generate_series(1, 3) AS n', 'SELECT 4'];
    await trial('batch', () => new Promise((resolve) => {
      const seen = [];
      batch.query({
        submit(connection) {
          for (const text of statements) {
            connection.parse({ text, types: [] });
            connection.describe({ type: 'S', name: '' });
            connection.bind({ values: [] });
            connection.execute({ portal: '', rows: 2 });
          }
          connection.sync();
          // After an error the client takes nobody's part: the query is not told.
          connection.once('readyForQuery', () => resolve(seen));
        },
        handleRowDescription: ({ fields: columns }) => seen.push(columns.map(column)),
        handleDataRow: ({ fields: cells }) => seen.push(cells.map(String)),
        handleCommandComplete: ({ text }) => seen.push(text),
        handlePortalSuspended: () => seen.push('suspended'),
        handleEmptyQuery: () => seen.push('empty'),
        handleError: (error) => { seen.push(fields(error)); },
        handleReadyForQuery: () => {},
      });
    }));
    await trial('behind it', async () => outcome(await batch.query('SELECT 5 AS five')));
    await left(batch);
  },

  async interrupted() {
    const [client, other] = [await connected(), await connected()];
    const sleeping = trial('cancelled', () => client.query('SELECT pg_sleep(20)'));
    const { processID } = client;
    const asleep = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
    while ((await other.query(asleep, [processID])).rowCount === 0);
    await new Promise((resolve) => {
      // The protocol's CancelRequest, on a connection of its own.
      const canceller = new pg.Client({ ...OPTIONS, ssl: false });
      canceller.connection.on('end', resolve);
      const sleeper = client.activeQuery ?? client._getActiveQuery();
      canceller.cancel(client, sleeper);
    });
    await sleeping;
    await trial('goes on', async () => outcome(await client.query('SELECT 1 AS one')));
    await trial('own number', async () => (await client.query('SELECT pg_backend_pid() = $1 AS same', [processID])).rows);
    await trial('timeout', () => client.query('SET statement_timeout = 50; SELECT pg_sleep(20)'));
    await client.query('SET statement_timeout = 0');
    await left(client);
    const victim = await connected();
    const end = new Promise((resolve) => { victim.once('end', resolve); });
    await other.query('SELECT pg_terminate_backend($1)', [victim.processID]);
    await end;
    await trial('ended', () => victim.query('SELECT 1'));
    await other.end();
  },

  async pool() {
    const pool = new pg.Pool({ ...OPTIONS, max: 8 });
    await pool.query('CREATE TABLE pooled (n int)');
    await Promise.all(Array.from({ length: 100 }, (_, n) => pool.query('INSERT INTO pooled VALUES ($1)', [n])));
    say('sum', (await pool.query('SELECT count(*), sum(n) FROM pooled')).rows);
    await pool.query('DROP TABLE pooled');
    await pool.end();
  },
};

(async () => {
  const client = new pg.Client(OPTIONS);
  await client.connect();
  await client.query('CREATE SCHEMA transcript');
  for (const [name, section] of Object.entries(sections)) {
    console.log(`# ${name}`);
    await section();
  }
  await client.query('DROP SCHEMA transcript CASCADE');
  await client.end();
  console.log('# end');
})().catch((error) => {
  console.log('broken:', error);
  process.exit(1);
});

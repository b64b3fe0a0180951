// A program of steps: what each gives is written down, one line of JSON each. A step that fails does not end the others.

const plain = (value) => JSON.parse(JSON.stringify(value ?? null));

async function take(steps) {
  for (const [step, work] of Object.entries(steps)) {
    try {
      console.log(JSON.stringify({ step, gives: plain(await work()) }));
    } catch (error) {
      console.log(JSON.stringify({ step, fails: String(error.message).slice(0, 500) }));
    }
  }
}

const { PGHOST: host, PGPORT: port, PGUSER: user, PGDATABASE: database, PGPASSWORD: password } = process.env;
// The gateway's certificate, and the server's, are of authorities that Node does not know.
module.exports = { take, at: { host, port: Number(port), database, password }, user, ssl: { rejectUnauthorized: false } };

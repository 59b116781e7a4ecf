// What the Node.js suites share: a line for each check, and a restart of the servers on request.
'use strict'
const fs = require('node:fs')

const url = process.env.DATABASE_URL
const nShards = Number(process.env.SHARDS)

/** Asks the test that runs this program to restart every Postgres server, and waits until it has. */
function restartServers() {
  fs.writeSync(1, '> restart\n')
  const answer = Buffer.alloc(5)
  fs.readSync(0, answer)
  if (answer.toString() !== 'done\n') throw new Error(`not restarted: ${answer}`)
}

/** Runs all checks, also those after a failed one, and ends the program: with 1 if one has failed. */
async function run(...checks) {
  let failed = false
  for (const check of checks) {
    try {
      await check()
      console.log(`ok ${check.name}`)
    } catch (error) {
      failed = true
      console.log(`FAILED ${check.name}`)
      console.log(error)
    }
  }
  process.exit(failed ? 1 : 0)
}

module.exports = { url, nShards, restartServers, run }
